"""One image of a study, as its header describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Frame:
    """One 2-D image of a file, with what its header says of place and time.

    Args:
        path: The file with the pixels.
        height: Rows; `width` are the columns.
        spacing_mm: Distance of pixel centres down the rows and along them.
        frame_index: Frame of a multi-frame file or fourth index in a NIfTI volume, from 0.
        slice_index: Third index in a NIfTI volume, from 0.
        sop_uid: Identifies a file within DICOM; several frames of a file share it.
        series_uid: Identifies the acquisition.
        normal: Unit vector across the image plane (LPS for DICOM, RAS for NIfTI).
        axes: Directions along the rows and down the columns, six numbers; None for NIfTI.
        position_mm: Position of the plane along its own normal.
        corner_mm: Position of the first pixel; None for NIfTI.
        slice_location_mm: DICOM's SliceLocation, which no standard ties to the position.
        slice_gap_mm: SpacingBetweenSlices as it stands in the header, sign included.
        thickness_mm: SliceThickness.
        times: What orders frames in time, by DICOM keyword, see `phases.CYCLE_TAGS`.
        number: InstanceNumber.
        phases_said: CardiacNumberOfImages.
    """

    path: Path
    height: int
    width: int
    spacing_mm: tuple[float, float]
    frame_index: int | None = None
    slice_index: int | None = None
    sop_uid: str = ''
    series_uid: str = ''
    normal: tuple[float, float, float] | None = None
    axes: tuple[float, ...] | None = None
    position_mm: float | None = None
    corner_mm: tuple[float, float, float] | None = None
    slice_location_mm: float | None = None
    slice_gap_mm: float | None = None
    thickness_mm: float | None = None
    times: dict[str, float] = field(default_factory=dict, hash=False)
    number: int | None = None
    phases_said: int | None = None
