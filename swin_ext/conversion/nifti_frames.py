"""Which points in time of NIfTI volumes are converted, and which are ED and ES."""

from __future__ import annotations

import configparser
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from swin_ext.conversion.study import ConversionError
from swin_ext.study.nifti_geometry import VolumeGeometry

PHASE_IN_NAME = re.compile(r'(?:^|[_\-.])(ED|ES)(?=[_\-.]|$)', re.IGNORECASE)


@dataclass(frozen=True)
class VolumePair:
    """Image and label files of one point in time, or of several in 4-D files.

    Args:
        frames: Index in the fourth axis by phase, for 4-D files.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    phase: str | None = None
    frame: str | None = None
    frames: tuple[tuple[str, int], ...] | None = None


class ChosenFrame(NamedTuple):
    """A point in time: its phase and place in the cycle, and its index in image and label."""

    phase: str | None
    frame: int | None
    image_index: int
    label_index: int

    @property
    def name(self) -> str:
        if self.phase is None and self.frame is None:
            return ''
        return f'{self.phase or f"frame{self.frame:02d}"}_'


def phase_in_name(images: list[Path]) -> str | None:
    """'ED' or 'ES' where the file name says so between separators, as in sa_ED.nii.gz."""
    found = PHASE_IN_NAME.search(images[0].name) if images else None
    return found.group(1).upper() if found else None


def find_frames_csv(root: Path) -> Path:
    tables = sorted(root.glob('*.csv'))
    if len(tables) != 1:
        raise ValueError(
            f'{root} has {len(tables)} CSV files; name the one with the columns '
            "'External code', 'ED' and 'ES' by --frames-csv"
        )
    return tables[0]


def read_frames_csv(path: Path) -> dict[str, dict[str, int]]:
    """Frame index (from 0) of ED and ES by patient, from M&Ms' table.

    Rows of patients without labels have no frames, and are passed over.
    """
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            rows = list(csv.DictReader(file))
        return {
            row['External code']: dict(ED=int(float(row['ED'])), ES=int(float(row['ES'])))
            for row in rows
            if row['ED'].strip() and row['ES'].strip()
        }
    except (KeyError, ValueError, AttributeError, OSError, csv.Error) as error:
        raise ValueError(
            f"{path}: needs columns 'External code', 'ED' and 'ES' with whole numbers "
            f'({type(error).__name__}: {error})'
        ) from error


def read_info_cfg(path: Path) -> dict[int, str]:
    """Phase by frame number (from 1), from ACDC's `Info.cfg` of lines `key: value`."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string('[info]\n' + path.read_text(encoding='utf-8'))
        return {parser.getint('info', phase): phase for phase in ('ED', 'ES')}
    except (OSError, ValueError, configparser.Error) as error:
        raise ConversionError(
            'it does not say which frames are ED and ES',
            'Restore the lines "ED: 1" and "ES: 12" of the data set',
            path,
        ) from error


def choose_frames(
    image: VolumeGeometry, label: VolumeGeometry, pair: VolumePair, phase_of_frame: dict[int, str]
) -> list[ChosenFrame]:
    """What is converted of a pair of volumes; `phase_of_frame` serves 3-D files with a number.

    Raises:
        ConversionError: If 4-D files lack a choice of frames, or a chosen frame.
    """
    num_image, num_label = image.shape[3], label.shape[3]
    if num_label not in (1, num_image):
        raise ConversionError(
            f'it has {num_image} frames, but its label volume {num_label}',
            'Labels need one frame, or one for each of the image',
            image.path,
        )
    if num_image == 1:
        frame = int(pair.frame) if pair.frame else None
        return [ChosenFrame(pair.phase or phase_of_frame.get(frame), frame, 0, 0)]
    if not pair.frames:
        raise ConversionError(
            f'it has {num_image} frames and nothing says which ones to convert',
            'Choose them with --frames, as in --frames ED=0,ES=9, or for M&Ms in the table of '
            'frames',
            image.path,
        )
    outside = [index for _, index in pair.frames if index >= num_image]
    if outside or (num_label == 1 and len(pair.frames) > 1):
        raise ConversionError(
            f'it has {num_image} frames (labels: {num_label}), but asked for are '
            + ', '.join(f'{name}={index}' for name, index in pair.frames),
            'Frames are counted from 0; correct --frames or the table of frames',
            image.path,
        )
    return [
        ChosenFrame(phase, index, index, index if num_label > 1 else 0)
        for phase, index in pair.frames
    ]
