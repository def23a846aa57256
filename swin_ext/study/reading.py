"""A folder or a list of files as stacks, with what was left out and why."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from swin_ext.study.errors import StudyError
from swin_ext.study.frames import Frame
from swin_ext.study.stacks import Refused, Stack, StackSlice, build_stacks

NIFTI_SUFFIXES = ('.nii', '.nii.gz', '.hdr', '.img')


class LeftOut(NamedTuple):
    """A file that is in no stack, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class StudyFrames:
    """What a study holds.

    Args:
        stacks: In the order of their first file; see `stacks.choose_short_axis`.
        left_out: Every file that is in none of them.
        refused: Frames that belong together, but cannot be ordered; their files are in `left_out`.
    """

    stacks: tuple[Stack, ...]
    left_out: tuple[LeftOut, ...]
    refused: tuple[Refused, ...] = ()


def list_files(folder: Path) -> list[Path]:
    """Files below a folder, sorted by path; hidden ones are passed over."""
    return sorted(
        path for path in folder.rglob('*') if path.is_file() and not path.name.startswith('.')
    )


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def read_study(
    source: str | os.PathLike | Iterable[Path], spacing_mm: tuple[float, float] | None = None
) -> StudyFrames:
    """Stacks of a folder, a file, or several files, by their headers alone.

    Args:
        spacing_mm: Distance of rows and of columns for files that carry none.

    Raises:
        StudyError: If a file cannot be read, or nothing is an image. What can be read, but has no
            certain place or time, is left out with the reason.
    """
    if isinstance(source, (str, os.PathLike)):
        root = Path(source)
        paths = list_files(root) if root.is_dir() else [root]
    else:
        paths = [Path(path) for path in source]
        root = paths[0].parent if paths else Path()
    stacks, left_out, all_refused = [], [], []
    nifti_paths = tuple(path for path in paths if is_nifti(path))
    if nifti_paths:
        from swin_ext.study.nifti_geometry import header_path

        for path in header_path(nifti_paths):
            stacks.append(nifti_stack(path, spacing_mm))
    others = [path for path in paths if not is_nifti(path)]
    if others:
        from swin_ext.study import dicom_headers

        headers = {}
        for path in others:
            if not dicom_headers.is_dicom(path):
                left_out.append(LeftOut(path, 'it is neither DICOM nor NIfTI'))
                continue
            header = dicom_headers.read_header(path)
            if dicom_headers.is_image(header):
                headers[path] = header
            else:
                left_out.append(LeftOut(path, 'it is DICOM, but no image'))
        found = build_stacks(dicom_headers.frames_of(headers, spacing_mm))
        stacks += found.stacks
        for refused in found.refused:
            all_refused.append(refused)
            files = dict.fromkeys(frame.path for frame in refused.frames)
            left_out += [LeftOut(path, refused.error.problem) for path in files]
        left_out += [
            LeftOut(path, 'its header does not say where it lies')
            for path in dict.fromkeys(frame.path for frame in found.unplaced)
        ]
    if not stacks and all_refused:
        raise all_refused[0].error
    if not stacks:
        reasons = '; '.join(dict.fromkeys(item.reason for item in left_out))
        raise StudyError(
            f'nothing of it is an image of known place and time ({reasons or "it has no file"})',
            'Check the folder',
            root,
        )
    return StudyFrames(tuple(stacks), tuple(left_out), tuple(all_refused))


def nifti_stack(path: Path, spacing_mm: tuple[float, float] | None = None) -> Stack:
    """A NIfTI volume as a stack: its third axis counts slices, its fourth phases.

    Raises:
        StudyError: If the header is damaged or contradicts itself.
    """
    from swin_ext.study.geometry import affine_normal
    from swin_ext.study.nifti_geometry import check_slice_axis, read_geometry, slice_positions_mm

    geometry = read_geometry(path, spacing_mm)
    check_slice_axis(geometry)
    columns, rows, num_slices, num_frames = geometry.shape
    positions = slice_positions_mm(geometry) or [None] * num_slices
    normal = None
    if geometry.affine_mm is not None:
        normal = tuple(affine_normal(geometry.affine_mm).tolist())
    slices = []
    for z, position in enumerate(positions):
        frames = {
            t: Frame(
                path,
                rows,
                columns,
                geometry.spacing_mm,
                frame_index=t,
                slice_index=z,
                normal=normal,
                position_mm=position,
            )
            for t in range(num_frames)
        }
        slices.append(StackSlice(z, position, frames))
    return Stack(
        tuple(slices),
        normal,
        geometry.spacing_mm,
        geometry.slice_spacing_mm,
        num_frames,
        'file' if num_frames > 1 else None,
        geometry.warnings,
    )
