"""Labels as DICOM segmentations, one object per phase.

Frames of a cine share their positions, so one object of all phases could not be placed by
position (highdicom issues 174 and 369). Frames without a pixel of a class are kept, as viewers
count frames (issue 214).
"""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swin_ext.inference.outputs.anonymous import MAY_BE_EMPTY, remove_patient
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.inference.study_stack import FramePlace, StudyStack
from swin_ext.study.errors import StudyError
from swin_ext.utils.errors import UserError
from swin_ext.utils.files import replacing
from swin_ext.utils.optional import import_optional
from swin_ext.version import __version__

if TYPE_CHECKING:
    import pydicom

    from swin_ext.study.frames import Frame

SEG_FOLDER = 'dicom_seg'
SERIES_NUMBER = 9000  # far from those of scanners
# pydicom's names of SNOMED CT concepts, by the lower-case name of a class.
CONCEPTS = dict(lv='LeftVentricle', myo='LeftVentricleMyocardium', rv='RightVentricle')
OWN_SCHEME = '99SWINEXT'
REFERENCED = (
    'StudyInstanceUID',
    'SeriesInstanceUID',
    'SOPInstanceUID',
    'SOPClassUID',
    'FrameOfReferenceUID',
)


def write_dicom_seg(
    study: SegmentedStudy, stack: StudyStack, folder: Path, anonymous: bool = False
) -> None:
    """Write `dicom_seg/phase000.dcm` and so on; segment i + 1 is class i.

    Patient and study are those of the source, and its frames and frame of reference are
    referenced; `anonymous` leaves patient and dates out, but not the UIDs, by which viewers place
    a segmentation.

    Raises:
        StudyError: If the source lacks what a segmentation must refer to.
        MissingPackageError: If highdicom is missing.
        OSError: If a file cannot be written.
    """
    import_optional('highdicom', 'Writing DICOM segmentations')
    import highdicom

    series_uid = highdicom.UID()
    for phase in range(stack.num_phases):
        places = {
            index: stack.frames[phase, index]
            for index in range(len(stack.slice_numbers))
            if study.present[phase, index]
        }
        if not places:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # they would print values of the header
            try:
                segmentation = _segmentation(study, phase, places, series_uid, anonymous)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # highdicom checks headers, and raises many types
                raise StudyError(
                    f'no DICOM segmentation can be made of its header: {error}',
                    'Leave dicomseg out of --formats',
                    next(iter(places.values())).path,
                ) from error
            content = io.BytesIO()
            segmentation.save_as(content)
        with replacing(folder / SEG_FOLDER / f'phase{phase:03d}.dcm') as file:
            file.write(content.getvalue())


def _segmentation(
    study: SegmentedStudy,
    phase: int,
    places: dict[int, FramePlace],
    series_uid: str,
    anonymous: bool,
) -> pydicom.Dataset:
    import highdicom

    headers: dict[Path, pydicom.Dataset] = {}
    first = next(iter(places.values())).header
    sources = [
        _single_frame(place, first, headers, study.slice_spacing_mm) for place in places.values()
    ]
    pixels = np.stack([study.labels[phase, index] for index in places])
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_segments(study),
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=phase + 1,
        manufacturer='swin_ext',
        manufacturer_model_name='swin_ext',
        software_versions=__version__,
        device_serial_number=study.model.sha256[:16] or 'none',
        content_label='SEGMENTATION',
        content_description=f'Phase {phase} by {study.model.name}'[:64],
        series_description=f'swin_ext {", ".join(study.classes)}'[:64],
        omit_empty_frames=False,
    )
    _refer_to_sources(segmentation, list(places.values()), headers)
    if anonymous:
        remove_patient(segmentation, study.name)
    return segmentation


def _segments(study: SegmentedStudy) -> list:
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name='swin_ext',
        version=study.model.version or __version__,
        family=codes.cid7162.ArtificialIntelligence,
        parameters=dict(model=study.model.name, sha256=study.model.sha256),
    )
    segments = []
    for number, name in enumerate(study.classes, 1):
        concept = CONCEPTS.get(name.lower())
        kind = (
            getattr(codes.SCT, concept)
            if concept
            else Code(f'CLASS{number}', OWN_SCHEME, name[:64])
        )
        segments.append(
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name[:64],
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=kind,
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                tracking_uid=highdicom.UID(),
                tracking_id=name[:64],
            )
        )
    return segments


def check_source(stack: StudyStack) -> None:
    """Find out by one frame whether the source has what a segmentation must refer to.

    Raises:
        StudyError: If it has not.
    """
    import pydicom

    place = next(iter(stack.frames.values()))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _check_reference(pydicom.dcmread(place.path, stop_before_pixels=True, force=True), place)


def _check_reference(header: pydicom.Dataset, place: FramePlace) -> None:
    missing = [keyword for keyword in REFERENCED if not header.get(keyword)]
    if place.header.corner_mm is None:
        missing.append('ImagePositionPatient')
    if missing:
        raise StudyError(
            f'it has no {missing[0]}, to which a DICOM segmentation has to refer',
            'Leave dicomseg out of --formats',
            place.path,
        )


def _single_frame(
    place: FramePlace,
    first: Frame,
    headers: dict[Path, pydicom.Dataset],
    slice_spacing_mm: float,
) -> pydicom.Dataset:
    """Header of a frame as if it were a file of its own, and all were of one series.

    highdicom takes frames of one series only and places those of a multi-frame file by position,
    which frames of a cine share.
    """
    import pydicom

    if place.path not in headers:
        headers[place.path] = pydicom.dcmread(place.path, stop_before_pixels=True, force=True)
    header, frame = headers[place.path], place.header
    _check_reference(header, place)
    single = pydicom.Dataset()
    single.file_meta = header.file_meta
    for element in header:
        if element.tag.group in (0x0008, 0x0010, 0x0020, 0x0032, 0x0040) and element.VR != 'UN':
            single[element.tag] = copy.deepcopy(element)  # its value may be set below
    _empty_impossible_dates(single)
    if place.frame_index is not None:
        single.SOPInstanceUID = f'2.25.{place.frame_index + 1}'  # until _refer_to_sources
        single.SOPClassUID = '1.2.840.10008.5.1.4.1.1.4'
    single.Rows, single.Columns = frame.height, frame.width
    # Those of the first frame, from which others differ by rounding.
    single.PixelSpacing = list(first.spacing_mm)
    single.SliceThickness = first.thickness_mm or slice_spacing_mm
    single.ImagePositionPatient = list(frame.corner_mm)
    single.ImageOrientationPatient = list(first.axes)
    first_header = next(iter(headers.values()))
    single.SeriesInstanceUID = first_header.SeriesInstanceUID
    # Some programs that anonymise give each file a frame of reference of its own.
    single.FrameOfReferenceUID = first_header.FrameOfReferenceUID
    single.LossyImageCompression = header.get('LossyImageCompression') or '00'
    for keyword in MAY_BE_EMPTY:
        if keyword not in single:
            setattr(single, keyword, None)
    return single


def _empty_impossible_dates(header: pydicom.Dataset) -> None:
    """Anonymised sources have dates such as 00000000, which no object may carry on."""
    import pydicom
    from pydicom.valuerep import DA, DT, TM

    for element in header:
        kind = dict(DA=DA, DT=DT, TM=TM).get(element.VR)
        if kind and element.VM == 1:
            try:
                kind(element.value)
            except ValueError:
                header[element.tag] = pydicom.DataElement(element.tag, element.VR, None)


def _refer_to_sources(
    segmentation: pydicom.Dataset, places: list[FramePlace], headers: dict[Path, pydicom.Dataset]
) -> None:
    """Put the true series, instances and frame numbers in place of those of `_single_frame`."""
    from pydicom.dataset import Dataset

    multi_frame = {
        f'2.25.{place.frame_index + 1}': place for place in places if place.frame_index is not None
    }
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in group.get('DerivationImageSequence', ()):
            for source in derivation.SourceImageSequence:
                place = multi_frame.get(source.ReferencedSOPInstanceUID)
                if place is not None:
                    source.ReferencedSOPClassUID = headers[place.path].SOPClassUID
                    source.ReferencedSOPInstanceUID = headers[place.path].SOPInstanceUID
                    source.ReferencedFrameNumber = place.frame_index + 1
    by_series: dict[str, dict[str, str]] = {}
    for header in headers.values():
        instances = by_series.setdefault(str(header.SeriesInstanceUID), {})
        instances[str(header.SOPInstanceUID)] = header.SOPClassUID
    references = []
    for uid, instances in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedInstanceSequence = [
            _reference(instance, sop_class) for instance, sop_class in instances.items()
        ]
        references.append(series)
    segmentation.ReferencedSeriesSequence = references
    if 'SourceImageSequence' in segmentation:
        segmentation.SourceImageSequence = [
            _reference(instance, sop_class)
            for instances in by_series.values()
            for instance, sop_class in instances.items()
        ]


def _reference(instance_uid: str, sop_class_uid: str) -> pydicom.Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = instance_uid
    return item
