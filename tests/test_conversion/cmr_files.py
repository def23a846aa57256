"""Small synthetic studies in the formats that clinics and challenges use."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pycocotools.mask

HEIGHT, WIDTH = 40, 48
# Values that no output may ever contain.
IDENTIFYING = dict(
    PatientName='PLANTED^NAME',
    PatientID='PLANTED-ID-4711',
    PatientBirthDate='19010203',
    OtherPatientIDs='PLANTED-OTHER',
    PatientAddress='PLANTED STREET 1',
    InstitutionName='PLANTED HOSPITAL',
    ReferringPhysicianName='PLANTED^DOCTOR',
    AccessionNumber='PLANTED-ACC',
    StudyDescription='PLANTED STUDY',
    StudyDate='19020304',
)
UID_ROOT = '1.2.826.0.1.3680043.8.498.4711'


def disk(y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def heart(radius: float = 6, x: float = 28) -> np.ndarray:
    """Label map (H, W): 1 LV, 2 Myo ring around it, 4 RV; not symmetric in any axis."""
    labels = np.zeros((HEIGHT, WIDTH), np.int16)
    labels[disk(18, 10, 5)] = 4
    labels[disk(18, x, radius + 4)] = 2
    labels[disk(18, x, radius)] = 1
    return labels


def pixels_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, labels.shape)
    return (noise + 300 * (labels == 1) + 90 * (labels == 2) + 250 * (labels == 4)).astype(np.int16)


def write_nifti(
    path: Path, array: np.ndarray, affine: np.ndarray, coded: bool = True, **header
) -> Path:
    """(x, y, z[, t]) array as NIfTI-1, with an affine in the header or none."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units('mm', 'sec')
    image.set_sform(affine if coded else None, int(coded))
    image.set_qform(affine if coded else None, int(coded))
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


AFFINE = np.array([[1.25, 0, 0, -20], [0, 1.25, 0, -30], [0, 0, 8, -55], [0, 0, 0, 1.0]])


def shifted(slices: float, columns: float = 0) -> np.ndarray:
    """AFFINE with the first voxel moved along the stack and along the rows, in voxels."""
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [columns, 0, slices, 1])[:3]
    return affine


def write_nifti_patient(folder: Path, seed: int = 0, slices: int = 4, extra: int = 2) -> None:
    """`sa_ED.nii.gz` of 4 slices, and `seg_sa_ED.nii.gz` that begins `extra` slices before it and
    ends `extra` behind; the first image slice has no label. Trailing axis of 1, as in AutoFD."""
    labels = np.zeros((WIDTH, HEIGHT, slices + 2 * extra), np.int16)
    for z in range(1, slices):
        labels[:, :, z + extra] = heart(4 + z).T
    image = np.stack([pixels_of(labels[:, :, z + extra], seed + z) for z in range(slices)], -1)
    write_nifti(folder / 'sa_ED.nii.gz', image[..., None], AFFINE)
    write_nifti(folder / 'seg_sa_ED.nii.gz', labels[..., None], shifted(-extra))


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    number: int = 1,
    position: float = 0.0,
    *,
    series: str = '1',
    phases: int | None = 20,
    **tags,
):
    """MR image with every kind of identifying tag; tags of value None are left out."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    path.parent.mkdir(parents=True, exist_ok=True)
    uid = f'{UID_ROOT}.{series}.{number}'
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = '1.2.840.10008.5.1.4.1.1.4'
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b'\0' * 128)
    elements = dict(
        IDENTIFYING,
        SOPClassUID=meta.MediaStorageSOPClassUID,
        SOPInstanceUID=uid,
        Modality='MR',
        StudyInstanceUID=f'{UID_ROOT}.77',
        SeriesInstanceUID=f'{UID_ROOT}.{series}',
        FrameOfReferenceUID=f'{UID_ROOT}.88',
        StudyTime='101112',
        StudyID='PLANTED-SID',
        PatientSex='F',
        Manufacturer='PLANTED VENDOR',
        SeriesNumber=1,
        InstanceNumber=number,
        ContentDate='19020304',
        ContentTime='101112',
        LossyImageCompression='00',
        CardiacNumberOfImages=phases,
        ImagePositionPatient=[-20.0, -30.0, float(position)],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[1.25, 1.25],
        SliceThickness=8,
        SamplesPerPixel=1,
        PhotometricInterpretation='MONOCHROME2',
        Rows=pixels.shape[0],
        Columns=pixels.shape[1],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
    )
    elements.update(tags)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for keyword, value in elements.items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset.is_little_endian, dataset.is_implicit_VR = True, False  # for pydicom 2
        dataset.PixelData = pixels.astype(np.int16).tobytes()
        dataset.save_as(path, write_like_original=False)
    return dataset


def circle(y: float, x: float, radius: float, points: int = 60) -> np.ndarray:
    """Polygon (points, 2) of x, y on half pixels, as observers' tools store them."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    polygon = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)
    return np.round(polygon * 2) / 2


def write_contour(path: Path, polygon: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, polygon, fmt='%.2f')
    return path


# Numbers of Sunnybrook's kind: 20 phases per slice; 7 is ES, 18 is ED.
ED_NUMBERS, ES_NUMBERS = (19, 39), (8, 28)


def write_contour_patient(root: Path, patient: str, seed: int = 0) -> None:
    """Two slices at ES (i-contour) and ED (i- and o-contour), and one frame without contours."""
    for slice_number, numbers in enumerate(zip(ES_NUMBERS, ED_NUMBERS)):
        for number, radius in zip(numbers, (5, 8)):
            write_dicom(
                root / 'dicom' / patient / f'{number}.dcm',
                pixels_of(heart(radius), seed + number),
                number,
                8.0 * slice_number,
                series=f'{seed + 1}',
            )
            stem = root / 'contours' / patient / f'IM-0001-{number:04d}'
            write_contour(Path(f'{stem}-icontour-manual.txt'), circle(18, 28, radius))
            if number in ED_NUMBERS:
                write_contour(Path(f'{stem}-ocontour-manual.txt'), circle(18, 28, radius + 4))
    write_dicom(
        root / 'dicom' / patient / '20.dcm',
        pixels_of(heart(7), seed),
        20,
        0.0,
        series=f'{seed + 1}',
    )


def write_segmentation(path: Path, sources: list, label_maps: np.ndarray) -> None:
    """DICOM-SEG of segments 1 LV, 2 Myo, 3 RV by highdicom; sources may be one multi-frame file."""
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=Code('91723000', 'SCT', 'Anatomical Structure'),
            segmented_property_type=codes.SCT.Heart,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, label in enumerate(('LV', 'Myo', 'RV'), 1)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=label_maps,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=9,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer='PLANTED VENDOR',
        manufacturer_model_name='M',
        software_versions='1',
        device_serial_number='PLANTED-SERIAL',
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)


def write_segmentation_patient(root: Path, patient: str) -> np.ndarray:
    """Three slices, of which two are segmented; returns the label maps of all."""
    label_maps = np.choose(
        np.stack([heart(5), heart(6), np.zeros_like(heart())]), [0, 1, 2, 0, 3]
    ).astype(np.uint8)
    sources = [
        write_dicom(root / patient / 'sa' / f'{z}.dcm', pixels_of(heart(5 + z), z), z + 1, 8.0 * z)
        for z in range(3)
    ]
    write_segmentation(root / patient / 'seg.dcm', sources, label_maps)
    return label_maps


def write_png_patient(root: Path, patient: str, seed: int = 0, slices: int = 2) -> None:
    import cv2

    for z in range(slices):
        labels = heart(5 + z)
        for kind, pixels in (
            ('images', pixels_of(labels, seed + z).clip(0, 255)),
            ('masks', labels),
        ):
            path = root / kind / f'{patient}_{z:02d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), pixels.astype(np.uint8))


def read_coco(path: Path) -> list[dict]:
    """Image entries with `masks` (H, W) by class and `parts`, the number of instances of each."""
    content = json.loads(path.read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    images = {image['id']: dict(image, masks={}, parts={}) for image in content['images']}
    for annotation in content['annotations']:
        image, name = images[annotation['image_id']], names[annotation['category_id']]
        mask = pycocotools.mask.decode(annotation['segmentation']).astype(bool)
        assert annotation['area'] == mask.sum()
        image['masks'][name] = image['masks'].get(name, False) | mask
        image['parts'][name] = image['parts'].get(name, 0) + 1
    return list(images.values())


def by_slice(images: list[dict]) -> dict[tuple, dict]:
    keyed = {(image['patient_id'], image.get('phase'), image['slice']): image for image in images}
    assert len(keyed) == len(images)
    return keyed


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }
