"""Parameters of a synthetic data set: what determines its bytes."""

from __future__ import annotations

from dataclasses import dataclass

# Raised whenever the same parameters give other pixels, so that an older data set is not reused.
PHANTOM_VERSION = 1

DEFAULT_FIELD_OF_VIEW_MM = 230.4
MIN_FIELD_OF_VIEW_MM = 200.0  # the largest heart, off centre, still fits
MIN_SIZE_PX = 64
MAX_SPACING_MM = 3.6  # beyond it the thinnest walls are not two pixels wide
MAX_SLICE_GAP_MM = 20.0


@dataclass(frozen=True)
class PhantomParameters:
    """What determines the bytes of a data set; lengths in mm, ``size`` in px."""

    patients: int = 40
    val_fraction: float = 0.25
    seed: int = 0
    size: int = 128
    spacing_mm: float = DEFAULT_FIELD_OF_VIEW_MM / 128
    slice_gap_mm: float = 8.0
    version: int = PHANTOM_VERSION

    def check(self) -> None:
        """Raise ValueError naming the first parameter no data set can be made with."""
        if self.patients < 2:
            raise ValueError(
                f'--patients is {self.patients}: at least 2 are needed, one to train '
                'on and one to hold out'
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(
                f'--val-fraction is {self.val_fraction}: it must lie between 0 and 1, both excluded'
            )
        if self.seed < 0:
            raise ValueError(f'--seed is {self.seed}: it must not be negative')
        if self.size < MIN_SIZE_PX:
            raise ValueError(f'--size is {self.size}: at least {MIN_SIZE_PX} px are needed')
        if not 0 < self.spacing_mm <= MAX_SPACING_MM:
            raise ValueError(
                f'--spacing-mm is {self.spacing_mm}: it must lie in '
                f'(0, {MAX_SPACING_MM:g}], so that the heart wall is some pixels wide'
            )
        field_of_view = self.size * self.spacing_mm
        if field_of_view < MIN_FIELD_OF_VIEW_MM:
            raise ValueError(
                f'--size {self.size} px times --spacing-mm {self.spacing_mm:g} is a '
                f'field of view of {field_of_view:g} mm; the heart needs '
                f'{MIN_FIELD_OF_VIEW_MM:g} mm: raise one of the two'
            )
        if not 0 < self.slice_gap_mm <= MAX_SLICE_GAP_MM:
            raise ValueError(
                f'--slice-gap-mm is {self.slice_gap_mm}: it must lie in '
                f'(0, {MAX_SLICE_GAP_MM:g}], so that each heart gets several slices'
            )

    def num_val(self) -> int:
        """Number of held-out patients, at least one, with at least one left to train on."""
        return min(max(round(self.patients * self.val_fraction), 1), self.patients - 1)
