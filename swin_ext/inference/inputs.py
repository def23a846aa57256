"""Studies in files, folders and trees: found one after the other, so that memory does not grow.

A study is all DICOM files of one StudyInstanceUID (of one folder where they have none), one NIfTI
file, one NumPy file of several images, or the pictures (PNG, JPEG, 2-D NumPy) of one folder. The
folders of a DICOM study must be neighbours in the order of their paths, as all exports have them.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swin_ext.study.errors import StudyError
from swin_ext.study.reading import is_nifti
from swin_ext.utils.errors import UserError
from swin_ext.utils.optional import import_optional

PICTURES = ('.png', '.jpg', '.jpeg', '.npy')
# Of a NIfTI volume in a folder: an image has more values and higher ones than a label map.
MAX_LABELS, MAX_LABEL = 16, 255
STUDY_TAGS = ('StudyInstanceUID', 'SOPClassUID', 'Rows', 'Columns')


class InputError(UserError, ValueError):
    """There is no study where the user said, or it is not what an argument needs."""


@dataclass(frozen=True)
class FoundStudy:
    """Files that make a study; nothing but what tells so is read.

    Args:
        kind: 'dicom', 'nifti' or 'pictures'.
        label: Where it lies, for the terminal alone, as paths may name a patient.
        files: In natural order of their paths.
        unreadable: DICOM files of its folders whose header is damaged.
        is_named: Whether the user named each file, which is then what is wanted.
        problem: Why it cannot be segmented, if that is known already.
    """

    kind: str
    label: str
    files: tuple[Path, ...]
    unreadable: tuple[Path, ...] = ()
    is_named: bool = False
    problem: StudyError | None = None


def find_studies(
    inputs: Iterable[Path], skipped: Counter, exclude: Path | None = None
) -> Iterator[FoundStudy]:
    """Yield the studies below folders and of files.

    Args:
        skipped: Is added how many files are none of a study, by reason.
        exclude: A folder that is not looked into, as that of the results.

    Raises:
        InputError: If an input does not exist.
    """
    inputs = [Path(path) for path in inputs]
    for path in inputs:
        if not path.exists():
            raise InputError(f'There is no file or folder {path}.')
    named = sorted((path for path in inputs if not path.is_dir()), key=natural)
    if named:
        yield from _group([('', named, True)], skipped)
    for root in inputs:
        if root.is_dir():
            yield from _group(_walk(root, exclude, skipped), skipped)


def natural(path: Path) -> list:
    """Sorts slice2 before slice10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'([0-9]+)', str(path))]


def _walk(
    root: Path, exclude: Path | None, skipped: Counter
) -> Iterator[tuple[str, list[Path], bool]]:
    """Label, files and False of each folder, depth first; each folder once, links followed."""
    seen = {_identity(exclude)} if exclude is not None and exclude.exists() else set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            identity = _identity(folder)
            entries = list(os.scandir(folder))
        except OSError as error:
            if folder == root:
                raise InputError(f'{folder} cannot be looked into: {error.strerror}.') from error
            skipped['folders that cannot be looked into'] += 1
            continue
        if identity in seen:
            continue
        seen.add(identity)
        files, folders = [], []
        for entry in entries:
            if not entry.name.startswith('.'):
                try:
                    (folders if entry.is_dir() else files).append(Path(entry.path))
                except OSError:
                    skipped['links to themselves'] += 1
        below = folder.relative_to(root)
        label = str(root.resolve().name / below) or str(root)
        yield label, sorted(files, key=natural), False
        waiting += sorted(folders, key=natural, reverse=True)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _group(
    folders: Iterable[tuple[str, list[Path], bool]], skipped: Counter
) -> Iterator[FoundStudy]:
    opened: dict[str, FoundStudy] = {}  # DICOM studies to which the next folder may add
    closed: set[int] = set()
    for label, files, is_named in folders:
        kinds: dict[str, list[Path]] = {'dicom': [], 'nifti': [], 'pictures': []}
        for path in files:
            kind = _kind(path)
            if kind is None:
                skipped['neither DICOM, NIfTI, PNG, JPEG nor NumPy'] += 1
            else:
                kinds[kind].append(path)
        found = _dicom_groups(label, kinds['dicom'], is_named, skipped)
        if found:
            for key in [key for key in opened if key not in found]:
                closed.add(hash(key))
                yield opened.pop(key)
        for key, study in found.items():
            if hash(key) in closed:
                yield _apart(study)
            elif key in opened:
                opened[key] = _join(opened[key], study)
            else:
                opened[key] = study
        yield from _nifti_studies(label, kinds['nifti'], is_named, skipped)
        if kinds['pictures'] and (kinds['dicom'] or kinds['nifti']) and not is_named:
            skipped['pictures beside DICOM or NIfTI'] += len(kinds['pictures'])
        else:
            yield from _picture_studies(label, kinds['pictures'], is_named)
    yield from opened.values()


def _kind(path: Path) -> str | None:
    if is_nifti(path):
        return 'nifti'
    if path.suffix.lower() in PICTURES:
        return 'pictures'
    if not path.is_file():  # a pipe would wait for ever
        return None
    from swin_ext.study.dicom_headers import is_dicom

    return 'dicom' if is_dicom(path) else None


def _dicom_groups(
    label: str, paths: list[Path], is_named: bool, skipped: Counter
) -> dict[str, FoundStudy]:
    if not paths:
        return {}
    label = label or str(paths[0])
    import_optional('pydicom', f'Reading {paths[0]}')
    from swin_ext.study.dicom_headers import is_image, read_header

    groups: dict[str, list[Path]] = {}
    with_images, unreadable = set(), []
    for path in paths:
        try:
            header = read_header(path, STUDY_TAGS)
        except StudyError:
            unreadable.append(path)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # they would print the UIDs
            uid = str(header.get('StudyInstanceUID') or '')
        if not uid and not is_image(header):  # truncated before these
            unreadable.append(path)
            continue
        key = uid or f'folder {path.parent}'
        groups.setdefault(key, []).append(path)
        if is_image(header):
            with_images.add(key)
    if not groups and unreadable:
        problem = StudyError(
            f'none of {len(unreadable)} DICOM files can be read', 'Export them again', unreadable[0]
        )
        key = f'folder {unreadable[0].parent}'
        return {key: FoundStudy('dicom', label, tuple(unreadable), (), is_named, problem)}
    found = {}
    for key, members in groups.items():
        if key not in with_images and not is_named:
            skipped['DICOM objects of a study that has no image'] += len(members)
            continue
        own = label if len(groups) == 1 else f'{label}, {members[0].name}'
        found[key] = FoundStudy('dicom', own, tuple(members), tuple(unreadable), is_named)
    return found


def _join(one: FoundStudy, other: FoundStudy) -> FoundStudy:
    common = os.path.commonpath([one.label, other.label]) or one.label
    return FoundStudy(
        one.kind,
        common,
        one.files + other.files,
        one.unreadable + other.unreadable,
        one.is_named,
    )


def _apart(study: FoundStudy) -> FoundStudy:
    problem = StudyError(
        'its DICOM study has files in another folder, too, with other studies in between',
        'Put all files of a study below one folder',
        study.files[0],
    )
    return FoundStudy(study.kind, study.label, study.files, problem=problem)


def _nifti_studies(
    label: str, paths: list[Path], is_named: bool, skipped: Counter
) -> Iterator[FoundStudy]:
    if not paths:
        return
    import_optional('nibabel', f'Reading {paths[0]}')
    from swin_ext.study.nifti_geometry import header_path

    for path in header_path(tuple(paths)):
        if not is_named and _is_label_map(path):
            skipped['NIfTI label maps'] += 1
        else:
            yield FoundStudy('nifti', _label_of(label, path), (path,), is_named=is_named)


def _label_of(folder_label: str, path: Path) -> str:
    return f'{folder_label}{os.sep}{path.name}' if folder_label else path.name


def _is_label_map(path: Path) -> bool:
    """Whether the first volume holds a few whole numbers only."""
    from swin_ext.images.reading import open_image

    try:
        volume = open_image(path).stack(0)
    except UserError:
        return False  # is told when the study is read
    values = np.unique(volume)
    return (
        len(values) <= MAX_LABELS
        and 0 <= values[0] <= values[-1] <= MAX_LABEL
        and bool((values == np.rint(values)).all())
    )


def _picture_studies(label: str, paths: list[Path], is_named: bool) -> Iterator[FoundStudy]:
    """Files of several images one by one; the others by their size, which a stack shares."""
    from swin_ext.images.reading import open_image

    sizes: dict[tuple[int, ...], list[Path]] = {}
    for path in paths:
        size: tuple[int, ...] = ()
        with suppress(UserError):  # damaged files are told with the first size
            file = open_image(path)
            if file.num_slices * file.num_frames > 1:
                yield FoundStudy('pictures', _label_of(label, path), (path,), is_named=is_named)
                continue
            size = file.frame().shape
        sizes.setdefault(size, []).append(path)
    damaged = sizes.pop((), []) if len(sizes) > 1 else []
    for index, (size, members) in enumerate(sizes.items()):
        if index == 0 and damaged:
            members = sorted(members + damaged, key=natural)
        own = label or str(members[0])
        if len(sizes) > 1:
            own += f' ({size[1]} x {size[0]} pixels)'
        yield FoundStudy('pictures', own, tuple(members), is_named=is_named)
