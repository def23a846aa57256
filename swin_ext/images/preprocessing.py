"""How the pixels of a file become the grey levels that a network takes.

One `Preprocessing` goes from the conversion of a data set to the inference on a new study: it is
stored in annotation files as `info['preprocessing']` and in checkpoints as
`meta['preprocessing']`, and read back from there. A model that is trained on one windowing and
used with another is wrong without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real

import numpy as np

from swin_ext.utils.errors import UserError

VERSION = 1  # of what `to_dict` returns and of the rules behind it
PERCENTILES = (0.5, 99.5)
CHOICES = {
    'window': (None, 'slice', 'study'),
    'channels': ('repeat', 'slices', 'frames'),
    'rounding': ('nearest', None),
    # Rules without an alternative are recorded all the same: a file that was made by another rule
    # has to be refused.
    'bit_depth': (8,),
    'colour': ('bgr',),
    'exif': ('apply',),
    'keep_8_bit': (False, True),
}


class PreprocessingError(UserError, ValueError):
    """A `Preprocessing` is impossible, of another version, or does not fit the pixels."""


@dataclass(frozen=True)
class Preprocessing:
    """From pixels in modality units to grey levels; equal if all values are equal.

    Attributes:
        window: The percentiles are taken over the image itself ('slice') or over all slices of
            the patient at that time ('study'). None takes 8-bit grey levels as they are, and
            nothing else.
        percentiles: In percent; they become the lowest and the highest grey level, linearly
            interpolated between two values (NumPy's 'linear').
        channels: 'repeat' shows the image three times; 'slices' the slices z - 1, z, z + 1;
            'frames' the frames t - 1, t, t + 1. What does not exist is replaced by the image.
        rounding: 'nearest' gives uint8, None float32; halves are rounded to the even number.
        bit_depth: Grey levels go from 0 to 2 ** `bit_depth` - 1.
        colour: Grey that is stored as RGB or by a palette is grey. Colours are taken without a
            window alone, as blue, green, red, and refused otherwise.
        exif: Orientation tags of PNG and JPEG are applied, as viewers do.
        keep_8_bit: PNG, JPEG and NumPy files of 8 bits are taken as they are beside windowed
            ones of other types.

    Raises:
        PreprocessingError: If a value is none of those.
    """

    window: str | None = None
    percentiles: tuple[float, float] = PERCENTILES
    channels: str = 'repeat'
    rounding: str | None = 'nearest'
    bit_depth: int = 8
    colour: str = 'bgr'
    exif: str = 'apply'
    keep_8_bit: bool = False

    def __post_init__(self):
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                raise PreprocessingError(f'{name}={value!r} must be one of {choices}.')
        # Lists, as JSON has them, would not be equal to tuples.
        object.__setattr__(self, 'percentiles', check_percentiles(self.percentiles))

    def uses_window(self, is_display: bool) -> bool:
        """Whether the grey levels of a file are set by a window; see `grey_levels`."""
        return not is_display or (self.window is not None and not self.keep_8_bit)

    def limits(self, reference: np.ndarray) -> tuple[float, float]:
        """The two values that become the lowest and the highest grey level.

        Args:
            reference: Pixels of any shape, see `window`.
        """
        return window_limits(reference, *self.percentiles)

    def grey_levels(
        self,
        pixels: np.ndarray,
        reference: np.ndarray | None = None,
        *,
        limits: tuple[float, float] | None = None,
        is_display: bool = False,
    ) -> np.ndarray:
        """Turn the pixels of one image into grey levels.

        Args:
            pixels: Any shape, in modality units.
            reference: Pixels of the whole study in any shape, needed by the window 'study' alone.
            limits: What `limits` gave for the reference, in its place.
            is_display: Whether the file holds 8-bit grey levels, see `ImageFile.is_display`.

        Returns:
            uint8, or float32 in 0..255 if `rounding` is None; of the shape of `pixels`.

        Raises:
            PreprocessingError: If the pixels need a window and there is none.
            ValueError: If the window 'study' has no reference.
        """
        if not self.uses_window(is_display):
            levels = np.asarray(pixels, np.float32)
        elif self.window is None:
            raise PreprocessingError(
                f'values from {np.min(pixels):g} to {np.max(pixels):g} are no 8-bit grey levels. '
                "Set window='slice' or window='study'."
            )
        else:
            if limits is None:
                if self.window == 'slice':
                    reference = pixels
                elif reference is None:
                    raise ValueError("window='study' needs the pixels of the study.")
                limits = self.limits(reference)
            levels = (2**self.bit_depth - 1) * apply_window(pixels, *limits)
        return levels if self.rounding is None else np.rint(levels).astype(np.uint8)

    def after(self, earlier: Preprocessing) -> Preprocessing:
        """What leads from source files to the network, if this is applied to what `earlier` wrote.

        A model that is trained on the 8-bit PNG files of a conversion needs this for a new study.

        Raises:
            PreprocessingError: If both have a window: no single one is the same as two.
        """
        if self.window is None:
            return replace(earlier, channels=self.channels, rounding=self.rounding)
        if earlier.window is None:
            return self
        raise PreprocessingError(
            f'the images were windowed before (window={earlier.window!r}, percentiles='
            f'{earlier.percentiles}) and would be windowed again. Set window=None of LoadCMRImage.'
        )

    def to_dict(self) -> dict:
        """JSON-serialisable values by name, with the version of the rules."""
        return {'version': VERSION, **asdict(self), 'percentiles': list(self.percentiles)}

    @classmethod
    def from_dict(cls, content: Mapping) -> Preprocessing:
        """Read what `to_dict` gave.

        Raises:
            PreprocessingError: If a key is missing or unknown, a value impossible, or the version
                another one.
        """
        if not isinstance(content, Mapping):
            raise PreprocessingError(
                f'preprocessing must be a dictionary, but is {type(content).__name__}.'
            )
        values = dict(content)
        version = values.pop('version', None)
        if type(version) is not int or version != VERSION:
            raise PreprocessingError(
                f'preprocessing has version {version!r}, but this program knows version {VERSION} '
                'alone. Use the program that wrote it, or convert the images again.'
            )
        known = {field.name for field in fields(cls)}
        missing, unknown = sorted(known - set(values)), sorted(map(str, set(values) - known))
        if missing or unknown:
            raise PreprocessingError(f'preprocessing lacks {missing} and has unknown {unknown}.')
        return cls(**values)


def check_percentiles(percentiles) -> tuple[float, float]:
    """Return two percentiles as floats.

    Raises:
        PreprocessingError: If they are no two rising numbers from 0 to 100.
    """
    if (
        not isinstance(percentiles, (tuple, list))
        or len(percentiles) != 2
        or not all(isinstance(p, Real) and not isinstance(p, bool) for p in percentiles)
        or not 0 <= percentiles[0] < percentiles[1] <= 100
    ):
        raise PreprocessingError(
            f'percentiles={percentiles!r} must be two rising numbers from 0 to 100: '
            '0 <= lower < upper <= 100.'
        )
    return float(percentiles[0]), float(percentiles[1])


def window_percentile(
    image: np.ndarray,
    lower: float = PERCENTILES[0],
    upper: float = PERCENTILES[1],
    reference: np.ndarray | None = None,
) -> np.ndarray:
    """Map the percentiles `lower` and `upper` to 0 and 1 and clip what is beyond.

    Args:
        image: Any shape.
        lower: In percent; likewise `upper`.
        reference: Where the percentiles are taken, for example the whole stack; else `image`.

    Returns:
        float32 of the image's shape in 0..1; see `window_limits` and `apply_window`.

    Raises:
        PreprocessingError: If not 0 <= lower < upper <= 100.
    """
    return apply_window(
        image, *window_limits(image if reference is None else reference, lower, upper)
    )


def window_limits(
    reference: np.ndarray, lower: float = PERCENTILES[0], upper: float = PERCENTILES[1]
) -> tuple[float, float]:
    """Return the two values that `window_percentile` maps to 0 and 1.

    Where both percentiles fall on the same value, the extremes take their place.
    """
    percentiles = check_percentiles((lower, upper))
    # In double precision, so that the same pixels give the same limits in whatever type they come.
    low, high = np.percentile(np.asarray(reference, np.float64), percentiles)
    if low == high:
        low, high = np.min(reference), np.max(reference)
    return float(low), float(high)


def apply_window(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high` to 1, float32, and clip what is beyond.

    If they are equal there is no contrast to show: 0 up to this value and 1 above it.
    """
    image = np.asarray(image, np.float64)
    if low == high or not math.isfinite(high - low):
        return (image > high).astype(np.float32)
    return np.clip((image - low) / (high - low), 0, 1).astype(np.float32)
