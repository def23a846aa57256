"""Studies of a beating heart of discs, and a model that finds them by their grey levels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from swin_ext.images.preprocessing import Preprocessing
from swin_ext.inference.segmented_study import ModelIdentity

HEIGHT, WIDTH = 40, 48
SLICES, PHASES = 3, 4
SPACING, SLICE_MM = (1.25, 1.5), 8.0
UID_ROOT = '1.2.826.0.1.3680043.8.498.4713'
MR = '1.2.840.10008.5.1.4.1.1.4'
# Values of a corner pixel, which sets the scale, and of the classes; LV, Myo, RV are 1, 2, 3.
BRIGHTEST, VALUES = 350, (0, 300, 100, 200)
# What no output may contain, but a DICOM segmentation.
IDENTIFYING = dict(
    PatientName='PLANTED^NAME',
    PatientID='PLANTED-ID-4711',
    PatientBirthDate='19010203',
    OtherPatientIDs='PLANTED-OTHER',
    InstitutionName='PLANTED HOSPITAL',
    ReferringPhysicianName='PLANTED^DOCTOR',
    AccessionNumber='PLANTED-ACC',
    StudyDescription='PLANTED STUDY',
    SeriesDescription='PLANTED SERIES',
    StudyID='PLANTED-SID',
    StudyDate='19020304',
    PatientComments='PLANTED COMMENT',
)


def _orientation() -> np.ndarray:
    """Rows and columns of a short axis: the normal is the usual long axis of the heart."""
    normal = np.array([0.7, -0.5, -0.5]) / np.linalg.norm([0.7, -0.5, -0.5])
    rows = np.cross([0, 0, 1.0], normal)
    rows /= np.linalg.norm(rows)
    return np.array([rows, np.cross(normal, rows)]).round(8)


SHORT_AXIS = _orientation()
# A plane along the heart's axis: its rows run along it.
FOUR_CHAMBER = np.array([np.cross(*SHORT_AXIS), SHORT_AXIS[0]]).round(8)
CORNER = np.array([-20.5, 30.25, 11.0])


def disc(y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def truth(phase: int, index: int) -> np.ndarray:
    """Labels (H, W): 1 LV, 2 Myo, 3 RV; not symmetric, and different in each frame."""
    radius = 8 - index - (2 if phase in (1, 2) else 0) - 0.3 * phase
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[disc(20, 12, 5 - 0.5 * index)] = 3
    labels[disc(17, 29, radius + 3)] = 2
    labels[disc(17, 29, radius)] = 1
    return labels


def truths(phases: int = PHASES, slices: int = SLICES) -> np.ndarray:
    """(T, S, H, W)."""
    return np.array([[truth(t, z) for z in range(slices)] for t in range(phases)])


def pixels_of(labels: np.ndarray) -> np.ndarray:
    pixels = np.choose(labels, VALUES).astype(np.uint16)
    pixels[..., 0, 0] = BRIGHTEST
    return pixels


class FoundInstances(SimpleNamespace):
    """As `model.Instances`."""


class ThresholdModel:
    """Finds the classes of `truth` by their grey levels, as `SegmentationModel` does.

    The mask of Myo is filled, as those of networks are; LV has the higher score. A second, worse
    candidate of RV lies in the corner.
    """

    def __init__(self, classes: tuple[str, ...] = ('LV', 'Myo', 'RV'), sha256: str = 'ab' * 32):
        self.classes = classes
        self.preprocessing = Preprocessing('slice', (0, 100))
        self.identity = ModelIdentity('fake.pth', sha256, '0.2.0', 0.5, {'dice': 0.9})
        self.calls: list[int] = []

    def predict(self, images):
        self.calls.append(len(images))
        return [self._find(image) for image in images]

    def _find(self, image: np.ndarray) -> FoundInstances:
        assert image.dtype == np.uint8
        levels = np.rint(np.array(VALUES) * 255 / BRIGHTEST)
        masks = [abs(image.astype(int) - level) <= 2 for level in levels[1:]]
        masks[1] |= masks[0]
        corner = np.zeros(image.shape, bool)
        corner[-3:, -3:] = True
        found = [
            (label, score, mask)
            for label, score, mask in zip(
                (0, 1, 2, 2), (0.9, 0.8, 0.7, 0.6), (*masks[:2], masks[2], corner)
            )
            if mask.any() and label < len(self.classes)
        ]
        return FoundInstances(
            labels=np.array([item[0] for item in found], np.int64),
            scores=np.array([item[1] for item in found], np.float32),
            boxes=np.zeros((len(found), 4), np.float32),
            masks=np.array([item[2] for item in found], bool).reshape(-1, *image.shape),
        )


def write_dicom(path: Path, uid: str, pixels: np.ndarray, **tags) -> FileDataset:
    """MR image with every identifying tag; tags of value None are left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = tags.get('SOPClassUID', MR)
    meta.MediaStorageSOPInstanceUID = f'{UID_ROOT}.{uid}'
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b'\0' * 128)
    elements = dict(
        IDENTIFYING,
        SOPClassUID=MR,
        SOPInstanceUID=f'{UID_ROOT}.{uid}',
        StudyInstanceUID=f'{UID_ROOT}.77',
        SeriesInstanceUID=f'{UID_ROOT}.77.1',
        FrameOfReferenceUID=f'{UID_ROOT}.88',
        PositionReferenceIndicator='',
        Modality='MR',
        PatientSex='F',
        PatientSize='1.75',
        PatientWeight='70',
        StudyTime='101112',
        SeriesNumber=5,
        InstanceNumber=1,
        ImageType=['ORIGINAL', 'PRIMARY'],
        Manufacturer='VENDOR',
        SliceThickness='8',
        PixelSpacing=list(SPACING),
        ImageOrientationPatient=SHORT_AXIS.ravel().tolist(),
        ImagePositionPatient=CORNER.tolist(),
        LossyImageCompression='00',
        SamplesPerPixel=1,
        PhotometricInterpretation='MONOCHROME2',
        Rows=pixels.shape[-2],
        Columns=pixels.shape[-1],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
    )
    elements.update(tags)
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def corner_of(index: int) -> np.ndarray:
    return (CORNER + index * SLICE_MM * np.cross(*SHORT_AXIS)).round(6)


def write_cine(
    folder: Path, phases: int = PHASES, slices: int = SLICES, study: int = 77, **tags
) -> Path:
    """A cine of one series, as `folder/NN.dcm`; slices are numbered from the far end."""
    for phase in range(phases):
        for index in range(slices):
            number = (slices - 1 - index) * phases + phase + 1
            write_dicom(
                folder / f'{number}.dcm',
                f'{study}.1.{number}',
                pixels_of(truth(phase, index)),
                **{
                    **dict(
                        InstanceNumber=number,
                        TriggerTime=str(50.0 * phase + 10),
                        StudyInstanceUID=f'{UID_ROOT}.{study}',
                        SeriesInstanceUID=f'{UID_ROOT}.{study}.1',
                        ImagePositionPatient=corner_of(index).tolist(),
                    ),
                    **tags,
                },
            )
    return folder


def expected_affine() -> np.ndarray:
    """RAS, by equation C.7.6.2.1-1 of PS3.3, written out."""
    affine = np.eye(4)
    affine[:3, 0] = SHORT_AXIS[0] * SPACING[1]
    affine[:3, 1] = SHORT_AXIS[1] * SPACING[0]
    affine[:3, 2] = np.cross(*SHORT_AXIS) * SLICE_MM
    affine[:3, 3] = CORNER
    affine[:2] *= -1
    return affine


def write_nifti(path: Path, labels: np.ndarray, affine: np.ndarray | None = None, **header) -> Path:
    """Image of labels (T, S, H, W) as NIfTI (x, y, z, t), with texts that may name somebody."""
    import nibabel

    array = pixels_of(labels).astype(np.int16).transpose(3, 2, 1, 0)
    array = array[..., 0] if array.shape[3] == 1 else array
    image = nibabel.Nifti1Image(array, expected_affine() if affine is None else affine)
    image.header.set_xyzt_units('mm', 'msec')
    image.header['descrip'] = b'PLANTED^NAME'
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension('comment', b'PLANTED-ID-4711'))
    for key, value in header.items():
        image.header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def read_segmentation(path: Path, num_classes: int = 3) -> dict[tuple, np.ndarray]:
    """Labels (H, W) by position, of a DICOM segmentation, by pydicom alone."""
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    found: dict[tuple, np.ndarray] = {}
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence):
        place = tuple(float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient)
        if 'SegmentIdentificationSequence' in group:
            number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        else:
            shared = dataset.SharedFunctionalGroupsSequence[0]
            number = shared.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels = found.setdefault(place, np.zeros(frame.shape, np.uint8))
        assert not labels[frame > 0].any()
        labels[frame > 0] = number
    return found


def sequence(**elements) -> pydicom.Sequence:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return pydicom.Sequence([item])
