"""Find and read DICOM series with contour text files or DICOM-SEG objects."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swin_ext.conversion.contours import fill_contour, fill_ring, polygon_area, read_contour
from swin_ext.conversion.dicom_places import Place, place_frames, slices_beyond
from swin_ext.conversion.patterns import find_paths
from swin_ext.conversion.pixels import read_slice
from swin_ext.conversion.reader_errors import conversion_errors
from swin_ext.conversion.study import ConversionError, LabelledSlice, LabelMap, Study, sha256_of
from swin_ext.study.dicom_headers import is_dicom, is_segmentation, read_frames
from swin_ext.study.frames import Frame
from swin_ext.study.reading import list_files
from swin_ext.utils.optional import require

CONTOUR_NAME = re.compile(r'(\d+)-([io])contour', re.IGNORECASE)
CAVITY, MYOCARDIUM = 1, 2


@dataclass(frozen=True)
class DicomStudy(Study):
    """A DICOM series with labels of another kind.

    Args:
        images: Files of the image folders that are DICOM; `not_dicom` counts the others.
    """

    images: tuple[Path, ...] = ()
    not_dicom: int = 0

    def read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        if self.not_dicom:
            left_out['files among the images that are no DICOM'] += self.not_dicom
        with conversion_errors(self.root / self.patient):
            yield from self._read(labels, left_out)

    def _read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        raise NotImplementedError


@dataclass(frozen=True)
class ContourStudy(DicomStudy):
    """A DICOM series with contours of the endocardium (i) and the epicardium (o).

    A contour file carries the number of its image file: `IM-0001-0059-icontour-manual.txt`
    belongs to the file whose name ends on 59.

    Args:
        fill: Which pixels a contour takes, see `contours.fill_contour`.
    """

    contours: tuple[Path, ...] = ()
    fill: str = 'centres'

    def source_files(self) -> list[Path]:
        return [*self.images, *self.contours]

    def _read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        if not self.contours:
            raise ConversionError(
                'it has no contour file',
                'Check the --contours pattern and --link',
                self.root / self.patient,
            )
        frames = read_frames(self.images, self.spacing_mm)
        by_number = number_files(frames)
        contours = self._contours_by_number(left_out)
        missing = sorted(set(contours) - set(by_number))
        if missing:
            raise ConversionError(
                f'{len(missing)} contours belong to image files that are missing: numbers '
                + ', '.join(map(str, missing[:10])),
                'Add the images, or remove the contours',
                next(iter(contours[missing[0]].values())),
            )

        polygons = {}
        for number, files in contours.items():
            frame = by_number[number]
            polygons[number] = {
                kind: read_contour(path, frame.height, frame.width) for kind, path in files.items()
            }
        areas = {
            number: polygon_area(shapes['i'])
            for number, shapes in polygons.items()
            if 'i' in shapes
        }
        needed = {'i', 'o'} if MYOCARDIUM in labels.class_of else {'i'}
        complete = {number for number, shapes in polygons.items() if needed <= set(shapes)}
        places = place_frames(frames, by_number, set(polygons), areas, left_out)
        beyond = slices_beyond(places, complete)
        for number in sorted(beyond | (places.keys() & polygons.keys())):
            frame, place = by_number[number], places[number]
            if number in beyond:
                yield labelled_slice(f'{number:04d}', frame, {}, place)
                continue
            if number not in complete:
                left_out['frames without both contours'] += 1
                continue
            shapes = polygons[number]
            inner = fill_contour(shapes['i'], frame.height, frame.width, self.fill)
            label_map = np.zeros(inner.shape, np.int64)
            if CAVITY in labels.class_of:
                label_map[inner] = CAVITY
            if MYOCARDIUM in labels.class_of:
                outer = fill_contour(shapes['o'], frame.height, frame.width, self.fill)
                label_map[fill_ring(inner, outer, contours[number]['o'])] = MYOCARDIUM
            yield labelled_slice(f'{number:04d}', frame, labels.masks(label_map), place)
        without = len(frames) - len(polygons) - len(beyond)
        if without:
            left_out['frames without a contour'] += without

    def _contours_by_number(self, left_out: Counter) -> dict[int, dict[str, Path]]:
        contours = defaultdict(dict)
        for path in self.contours:
            match = CONTOUR_NAME.search(path.name)
            if not match:
                left_out['text files that are no i- or o-contour'] += 1
                continue
            number, kind = int(match.group(1)), match.group(2).lower()
            if kind in contours[number]:
                raise ConversionError(
                    f'a second {kind}-contour of image {number}',
                    'Make the --contours pattern narrower: it takes in several observers or series',
                    path,
                )
            contours[number][kind] = path
        return contours


@dataclass(frozen=True)
class SegmentationStudy(DicomStudy):
    """A DICOM series with DICOM-SEG objects that refer to its images; labels are segments."""

    segmentations: tuple[Path, ...] = ()

    def source_files(self) -> list[Path]:
        return [*self.images, *self.segmentations]

    def _read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        segmentations = [path for path in self.segmentations if is_segmentation(path)]
        if not segmentations:
            raise ConversionError(
                'it has no DICOM-SEG object',
                'Check the --segmentations pattern',
                self.root / self.patient,
            )
        segmentation_set = set(segmentations)
        frames = read_frames(
            [
                path
                for path in self.images
                if path not in segmentation_set and not is_segmentation(path)
            ],
            self.spacing_mm,
        )
        by_uid = defaultdict(list)
        for number, frame in enumerate(frames):
            by_uid[frame.sop_uid].append((number, frame))
        label_maps: dict[int, np.ndarray] = {}
        for path in segmentations:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # they would print values of the header
                found = read_segmentation(path, by_uid, labels)
            for number, label_map in found:
                known = label_maps.setdefault(number, label_map)
                if np.any((known > 0) & (label_map > 0) & (known != label_map)):
                    raise ConversionError(
                        'its segments overlap those of another DICOM-SEG object',
                        'Keep one object per image',
                        path,
                    )
                label_maps[number] = np.maximum(known, label_map)
        cavity = 'LV' if 'LV' in labels.classes else labels.classes[0]
        areas = {
            number: float(labels.masks(label_map).get(cavity, np.zeros(1)).sum())
            for number, label_map in label_maps.items()
        }
        places = place_frames(frames, dict(enumerate(frames)), set(label_maps), areas, left_out)
        beyond = slices_beyond(places, set(label_maps))
        for number in sorted(beyond | (places.keys() & label_maps.keys())):
            masks = labels.masks(label_maps[number]) if number in label_maps else {}
            yield labelled_slice(f'{number:04d}', frames[number], masks, places[number])
        without = len(frames) - len(label_maps) - len(beyond)
        if without:
            left_out['frames without a segmentation'] += without


def find_studies(
    root: Path,
    images: str,
    contours: str | None,
    segmentations: str | None,
    link: Path | None = None,
    spacing_mm: tuple[float, float] | None = None,
) -> list[ContourStudy | SegmentationStudy]:
    """Patients with their image files and contours, or DICOM-SEG objects.

    Args:
        images: Pattern of the folders with a patient's images, see `patterns.compile_pattern`.
        contours: Pattern of the folders with contours; likewise `segmentations`. One is given.
        link: CSV of two columns with a header: patient of `images`, patient of `contours`.

    Raises:
        ValueError: If a pattern or the table cannot be used.
        MissingPackageError: If a package is missing that reads what is asked for.
    """
    if segmentations:
        require('highdicom', 'Reading DICOM-SEG')
    names = read_link(link) if link else {}
    image_folders, label_folders = defaultdict(list), defaultdict(list)
    for found, pattern in ((image_folders, images), (label_folders, contours or segmentations)):
        for fields, folder in find_paths(root, pattern, folders=True):
            found[fields['patient']].append(folder)
    studies = []
    for patient, folders in sorted(image_folders.items()):
        files = [path for folder in folders for path in list_files(folder)]
        label_files = [
            path
            for folder in label_folders.get(names.get(patient, patient), ())
            for path in list_files(folder)
        ]
        image_files = tuple(path for path in files if is_dicom(path))
        other_files = set(files) - set(image_files)
        if contours:
            texts = tuple(path for path in label_files if path.suffix == '.txt')
            kind, labelled = ContourStudy, texts
        else:
            kind, labelled = SegmentationStudy, tuple(filter(is_dicom, label_files))
        not_dicom = len(other_files - set(labelled))
        studies.append(kind(patient, root, spacing_mm, image_files, not_dicom, labelled))
    return studies


def read_link(path: Path) -> dict[str, str]:
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            rows = [row for row in csv.reader(file) if row][1:]
        return {patient: other for patient, other in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f'{path}: needs a header and two columns, the patients of the images and '
            f'of the contours ({type(error).__name__}: {error})'
        ) from error


def number_files(frames: list[Frame]) -> dict[int, Frame]:
    """Frames by the last number in the name of their file."""
    by_number = {}
    for frame in frames:
        found = re.search(r'(\d+)\D*$', frame.path.stem)
        if not found or frame.frame_index is not None:
            continue
        number = int(found.group(1))
        if number in by_number:
            raise ConversionError(
                f'another image file has the number {number}, too, so contours of that number are '
                'ambiguous',
                'Make the --images pattern narrower: it takes in several series',
                frame.path,
            )
        by_number[number] = frame
    return by_number


def labelled_slice(
    name: str, frame: Frame, masks: dict[str, np.ndarray], place: Place
) -> LabelledSlice:
    return LabelledSlice(
        name=name,
        image=read_slice(frame.path, frame.frame_index),
        masks=masks,
        source=frame.path,
        sha256=sha256_of(frame.path),
        spacing_mm=frame.spacing_mm,
        slice_spacing_mm=place.slice_spacing_mm,
        slice=place.slice,
        phase=place.phase,
        frame=place.frame,
        frame_index=frame.frame_index,
        doubts=place.doubts,
    )


def read_segmentation(
    path: Path, by_uid: dict[str, list[tuple[int, Frame]]], labels: LabelMap
) -> list[tuple[int, np.ndarray]]:
    """Numbers of frames that a DICOM-SEG object refers to, with maps of their segment numbers.

    Args:
        by_uid: Numbered frames of each file by its instance UID.

    Raises:
        ConversionError: If the object cannot be read, its segments overlap or are in no class, or
            it refers to an image that is missing or of another size.
    """
    import highdicom

    try:
        segmentation = highdicom.seg.segread(path)
    except Exception as error:  # highdicom and pydicom raise many types on damaged files
        raise ConversionError('it cannot be read as DICOM-SEG', 'Export it again', path) from error
    labels.check(np.array(segmentation.segment_numbers), path)
    found = []
    for _, _, uid in segmentation.get_source_image_uids():
        frames = by_uid.get(str(uid))
        if not frames:
            raise ConversionError(
                'it refers to an image that is not among the images',
                'Add the image files, or check the --images pattern',
                path,
            )
        try:
            if frames[0][1].frame_index is None:
                maps = segmentation.get_pixels_by_source_instance([uid], combine_segments=True)
            else:
                maps = segmentation.get_pixels_by_source_frame(
                    uid,
                    [frame.frame_index + 1 for _, frame in frames],
                    combine_segments=True,
                    assert_missing_frames_are_empty=True,
                )
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConversionError(
                'its segments cannot be made a label map: they overlap, are fractional, or do not '
                'keep the pixels of the image',
                'Export it as binary segments on the grid of the image',
                path,
            ) from error
        for (number, frame), label_map in zip(frames, maps):
            if label_map.shape != (frame.height, frame.width):
                raise ConversionError(
                    f'its frames have shape {label_map.shape}, but the image '
                    f'{(frame.height, frame.width)}',
                    'Export it on the grid of the image',
                    path,
                )
            found.append((number, labels.check(label_map, path)))
    return found
