"""Broken studies: a clear error, or a skip that is listed; nothing half-written; runs resume."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
from cmr_files import (
    AFFINE,
    HEIGHT,
    WIDTH,
    circle,
    contents,
    heart,
    pixels_of,
    shifted,
    write_contour,
    write_contour_patient,
    write_dicom,
    write_nifti,
    write_nifti_patient,
    write_png_patient,
    write_segmentation,
    write_segmentation_patient,
)

from swin_ext.conversion import dicom, nifti, png
from swin_ext.conversion.coco_writer import Settings
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.study import ConversionError, LabelMap, Study


@dataclass(frozen=True)
class Format:
    """How to write a good data set of the patients A, B and C, and how to find its studies."""

    write: Callable[[Path, str, int], None]
    find: Callable[[Path], list[Study]]
    labels: str


def find_nifti(root: Path) -> list[Study]:
    return nifti.find_studies(
        root, 'generic', '{patient}/sa_{phase}.nii*', '{patient}/seg_sa_{phase}.nii*'
    )


def find_contours(root: Path) -> list[Study]:
    return dicom.find_studies(root, 'dicom/{patient}', 'contours/{patient}', None)


def find_segmentations(root: Path) -> list[Study]:
    return dicom.find_studies(root, '{patient}', None, '{patient}')


def find_png(root: Path) -> list[Study]:
    return png.find_studies(
        root, 'images/{patient}_{slice}.png', 'masks/{patient}_{slice}.png', (1.25, 1.25)
    )


FORMATS = dict(
    nifti=Format(
        lambda root, patient, seed: write_nifti_patient(root / patient, seed),
        find_nifti,
        '1=LV,2=Myo,4=RV',
    ),
    contours=Format(write_contour_patient, find_contours, '1=LV,2=Myo'),
    seg=Format(
        lambda root, patient, seed: write_segmentation_patient(root, patient),
        find_segmentations,
        '1=LV,2=Myo,3=RV',
    ),
    png=Format(write_png_patient, find_png, '1=LV,2=Myo,4=RV'),
)


def truncate(path: Path, fraction: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])


def edit_header(path: Path, **fields) -> None:
    """Change fields that nibabel would put right when it saves."""
    data = gzip.decompress(path.read_bytes())
    header = nibabel.Nifti1Header(data[:348], check=False)
    for key, value in fields.items():
        header[key] = value
    path.write_bytes(gzip.compress(header.binaryblock + data[348:]))


def edit_nifti(path: Path, change: Callable | None = None, affine=None, coded=True) -> None:
    """Rewrite a volume with changed voxels or affine."""
    image = nibabel.load(path)
    array, old = np.asanyarray(image.dataobj).copy(), image.affine
    path.unlink()
    array = array if change is None else change(array)
    write_nifti(path, array, old if affine is None else affine, coded)


def set_voxel(value: float, dtype=np.float32) -> Callable:
    def change(array):
        array = array.astype(dtype)
        array[20, 18, 2] = value
        return array

    return change


def edit_dicom(path: Path, **elements) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path, write_like_original=False)


def contradict(folder: Path) -> None:
    for path in folder.iterdir():
        number = int(path.stem)
        edit_dicom(path, TriggerTime=40 * number, TemporalPositionIdentifier=100 - number)


def copy_in_place_and_time(path: Path) -> None:
    for other in path.parent.iterdir():
        edit_dicom(other, TriggerTime=40 * (int(other.stem) % 20))
    write_dicom(path.with_name('919.dcm'), pixels_of(heart()), 919, 0.0, TriggerTime=40 * 19)
    dataset = pydicom.dcmread(path.with_name('919.dcm'))
    dataset.SeriesInstanceUID = pydicom.dcmread(path).SeriesInstanceUID
    dataset.save_as(path.with_name('919.dcm'))


def set_transfer_syntax(path: Path, uid: str) -> None:
    """The pixels stay uncompressed, whatever the header says from now on."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
    dataset['PixelData'].is_undefined_length = True
    dataset.save_as(path, write_like_original=False)


def turn_about_z(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = shifted(-2)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ affine[:3, :3]
    return affine


IMAGE, LABEL = 'B/sa_ED.nii.gz', 'B/seg_sa_ED.nii.gz'
DICOM, INNER = 'dicom/B/19.dcm', 'contours/B/IM-0001-0019-icontour-manual.txt'
OUTER = INNER.replace('icontour', 'ocontour')
PNG_IMAGE, PNG_MASK = 'images/B_00.png', 'masks/B_00.png'


def save_colours(path: Path) -> None:
    old = nibabel.load(path)
    array = np.zeros(old.shape[:3], [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    nibabel.save(nibabel.Nifti1Image(array, old.affine), path)


def to_complex(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex64)


def save_png(path: Path, array: np.ndarray) -> None:
    assert cv2.imwrite(str(path), array)


# (format, what is broken, the file at fault, how to break it, what the error says)
BROKEN = [
    ('nifti', 'truncated image', IMAGE, truncate, 'pixels cannot be read'),
    ('nifti', 'truncated label', LABEL, truncate, 'cannot be read'),
    ('nifti', 'empty image file', IMAGE, lambda p: truncate(p, 0), 'cannot be read as NIfTI'),
    ('nifti', 'no NIfTI at all', LABEL, lambda p: p.write_text('hello'), 'cannot be read as NIfTI'),
    ('nifti', 'NaN in image', IMAGE, lambda p: edit_nifti(p, set_voxel(np.nan)), 'NaN or infinite'),
    (
        'nifti',
        'infinity in image',
        IMAGE,
        lambda p: edit_nifti(p, set_voxel(np.inf)),
        'NaN or infinite',
    ),
    (
        'nifti',
        'NaN in label',
        LABEL,
        lambda p: edit_nifti(p, set_voxel(np.nan)),
        'not whole numbers',
    ),
    (
        'nifti',
        'interpolated label',
        LABEL,
        lambda p: edit_nifti(p, set_voxel(1.5)),
        'not whole numbers',
    ),
    (
        'nifti',
        'unknown label value',
        LABEL,
        lambda p: edit_nifti(p, set_voxel(7, np.int16)),
        'label values 7 are in no class',
    ),
    (
        'nifti',
        'negative label value',
        LABEL,
        lambda p: edit_nifti(p, set_voxel(-1, np.int16)),
        'label values -1 are in no class',
    ),
    (
        'nifti',
        'label of another shape',
        LABEL,
        lambda p: edit_nifti(p, lambda a: a[:-3]),
        r'slices have shape \(45, 40\), but those of the image \(48, 40\)',
    ),
    (
        'nifti',
        'label shifted off the image',
        LABEL,
        lambda p: edit_nifti(p, affine=shifted(-90)),
        'does not overlap',
    ),
    (
        'nifti',
        'labelled slices outside',
        LABEL,
        lambda p: edit_nifti(p, affine=shifted(1)),
        '3 labelled slices lie outside',
    ),
    (
        'nifti',
        'label shifted in the plane',
        LABEL,
        lambda p: edit_nifti(p, affine=shifted(-2, columns=5)),
        r'shifted .* by \(6.25, 0.00, 0.00\)',
    ),
    (
        'nifti',
        'label between slices',
        LABEL,
        lambda p: edit_nifti(p, affine=shifted(-2.5)),
        'shifted against the image',
    ),
    (
        'nifti',
        'label rotated',
        LABEL,
        lambda p: edit_nifti(p, affine=turn_about_z(10)),
        'rotated or scaled',
    ),
    (
        'nifti',
        'label of other voxel size',
        LABEL,
        lambda p: edit_nifti(p, affine=shifted(-2) @ np.diag([2, 2, 1, 1])),
        'rotated or scaled',
    ),
    ('nifti', 'label without affine', LABEL, lambda p: edit_nifti(p, coded=False), 'no affine'),
    ('nifti', 'image without affine', IMAGE, lambda p: edit_nifti(p, coded=False), 'no affine'),
    ('nifti', 'singular affine', LABEL, lambda p: edit_header(p, srow_x=[0, 0, 0, 0]), 'singular'),
    (
        'nifti',
        'no voxel size',
        IMAGE,
        lambda p: edit_header(p, sform_code=0, pixdim=[1, 0, 0, 0, 1, 1, 1, 1]),
        'no voxel size',
    ),
    (
        'nifti',
        'five axes',
        IMAGE,
        lambda p: edit_nifti(p, lambda a: np.stack([a] * 2, -1)),
        r'shape \(48, 40, 4, 1, 2\)',
    ),
    (
        'nifti',
        '4-D without a choice of frames',
        IMAGE,
        lambda p: edit_nifti(p, lambda a: np.concatenate([a] * 3, -1)),
        'has 3 frames and nothing',
    ),
    (
        'nifti',
        'label of other frames',
        LABEL,
        lambda p: edit_nifti(p, lambda a: np.concatenate([a] * 3, -1)),
        '1 frames, but its label volume 3',
    ),
    (
        'nifti',
        'no label anywhere',
        LABEL,
        lambda p: edit_nifti(p, np.zeros_like),
        'no labelled voxel',
    ),
    (
        'nifti',
        'NaN in the sform',
        IMAGE,
        lambda p: edit_header(p, srow_y=[0, np.nan, 0, 0]),
        'sform has entries that are NaN',
    ),
    (
        'nifti',
        'NaN in the sform of the label',
        LABEL,
        lambda p: edit_header(p, srow_y=[0, np.nan, 0, 0]),
        'sform has entries that are NaN',
    ),
    (
        'nifti',
        'sform against pixdim',
        IMAGE,
        lambda p: edit_header(p, srow_x=[2.5, 0, 0, 0]),
        'pixdim says',
    ),
    (
        'nifti',
        'quaternion of no rotation',
        IMAGE,
        lambda p: edit_header(p, sform_code=0, quatern_b=7),
        'qform|cannot be read',
    ),
    (
        'nifti',
        'sizes of no heart',
        IMAGE,
        lambda p: edit_nifti(p, affine=np.diag([1.25, 1250, 8, 1])),
        'no cardiac image',
    ),
    (
        'nifti',
        'slices along the first axis',
        IMAGE,
        lambda p: edit_nifti(p, affine=np.diag([8, 1.25, 1.25, 1])),
        'slices lie along axis 1',
    ),
    ('nifti', 'colour image', IMAGE, lambda p: save_colours(p), 'pixels cannot be read'),
    ('nifti', 'colour label', LABEL, lambda p: save_colours(p), 'one real number per voxel'),
    ('nifti', 'complex label', LABEL, lambda p: edit_nifti(p, to_complex), 'one real number'),
    (
        'nifti',
        'no data type',
        LABEL,
        lambda p: edit_header(p, datatype=999),
        'cannot be read as NIfTI',
    ),
    (
        'nifti',
        'more promised than there is',
        LABEL,
        lambda p: edit_header(p, dim=[4, 30000, 30000, 30000, 1, 1, 1, 1]),
        'cannot be read|for a reason',
    ),
    ('nifti', 'no label file', LABEL, lambda p: p.unlink(), 'no label file'),
    ('nifti', 'no image file', IMAGE, lambda p: p.unlink(), 'no image file'),
    (
        'nifti',
        'two label files',
        LABEL,
        lambda p: shutil.copy(p, p.with_name('seg_sa_ED.nii.copy')),
        '2 files match',
    ),
    ('contours', 'truncated pixels', DICOM, lambda p: truncate(p, 0.9), 'pixels cannot be read'),
    ('contours', 'truncated header', DICOM, lambda p: truncate(p, 0.1), 'DICOM'),
    ('contours', 'no DICOM at all', DICOM, lambda p: p.write_text('hello'), 'as DICOM'),
    (
        'contours',
        'wrong transfer syntax',
        DICOM,
        lambda p: set_transfer_syntax(p, '1.2.840.10008.1.2.4.90'),
        'pixels cannot be read',
    ),
    (
        'contours',
        'unsupported transfer syntax',
        DICOM,
        lambda p: set_transfer_syntax(p, '1.2.840.10008.1.2.4.100'),
        'pixels cannot be read',
    ),
    (
        'contours',
        'unreadable frame without contour',
        'dicom/B/20.dcm',
        lambda p: truncate(p, 0.1),
        'DICOM',
    ),
    (
        'contours',
        'duplicate SOP instance',
        DICOM,
        lambda p: shutil.copy(p, p.with_name('copy-of-919.dcm')),
        'SOP instance UID of another file',
    ),
    (
        'contours',
        'number of two files',
        DICOM,
        lambda p: write_dicom(p.with_name('other19.dcm'), pixels_of(heart()), 19, series='55'),
        'ambiguous',
    ),
    (
        'contours',
        'no pixel spacing',
        DICOM,
        lambda p: edit_dicom(p, PixelSpacing=None),
        'no pixel spacing',
    ),
    (
        'contours',
        'zero pixel spacing',
        DICOM,
        lambda p: edit_dicom(p, PixelSpacing=[0, 0]),
        'no pixel spacing',
    ),
    (
        'contours',
        'colours',
        DICOM,
        lambda p: edit_dicom(p, SamplesPerPixel=3, PhotometricInterpretation='RGB'),
        'pixels cannot be read',
    ),
    (
        'contours',
        'orientation of no plane',
        DICOM,
        lambda p: edit_dicom(p, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        'perpendicular',
    ),
    (
        'contours',
        'position of two numbers',
        DICOM,
        lambda p: edit_dicom(p, ImagePositionPatient=[1, 2]),
        'ImagePositionPatient is not 3 finite numbers',
    ),
    (
        'contours',
        'contradicting times',
        'dicom/B',
        lambda p: contradict(p),
        'TriggerTime and TemporalPositionIdentifier contradict',
    ),
    (
        'contours',
        'place and time of another image',
        DICOM,
        lambda p: copy_in_place_and_time(p),
        'has the place and the TriggerTime of another',
    ),
    ('contours', 'no image', DICOM, lambda p: edit_dicom(p, Rows=None), 'no image'),
    ('contours', 'no image for a contour', DICOM, lambda p: p.unlink(), 'missing: numbers 19'),
    ('contours', 'no contours', 'contours/B', shutil.rmtree, 'no contour file'),
    (
        'contours',
        'contour out of the image',
        INNER,
        lambda p: write_contour(p, circle(18, 45, 8)),
        r'x 37 to 53, .* leaves the image of 48 x 40',
    ),
    (
        'contours',
        'negative contour',
        INNER,
        lambda p: write_contour(p, circle(3, 28, 8)),
        'leaves the image',
    ),
    ('contours', 'empty contour', INNER, lambda p: p.write_text(''), 'holds 0 points'),
    (
        'contours',
        'contour of two points',
        INNER,
        lambda p: p.write_text('1 2\n3 4\n'),
        'holds 2 points',
    ),
    (
        'contours',
        'garbled contour',
        INNER,
        lambda p: p.write_bytes(b'\x00\xff\x13 garbage'),
        'no list of x y pairs',
    ),
    (
        'contours',
        'ragged contour',
        INNER,
        lambda p: p.write_text('1 2\n3 4 5\n6 7\n'),
        'no list of x y pairs',
    ),
    (
        'contours',
        'contour with NaN',
        INNER,
        lambda p: p.write_text('1 2\nnan 4\n6 7\n'),
        'pairs of numbers',
    ),
    (
        'contours',
        'outer contour of another frame',
        OUTER,
        lambda p: write_contour(p, circle(25, 12, 10)),
        'outside the outer one',
    ),
    (
        'contours',
        'two observers',
        INNER,
        lambda p: shutil.copytree(p.parent, p.parent / 'second'),
        'a second',
    ),
    ('seg', 'truncated object', 'B/seg.dcm', lambda p: truncate(p, 0.3), 'DICOM'),
    ('seg', 'no object', 'B/seg.dcm', lambda p: p.unlink(), 'no DICOM-SEG object'),
    ('seg', 'source image missing', 'B/sa/1.dcm', lambda p: p.unlink(), 'not among the images'),
    (
        'seg',
        'image of another size',
        'B/sa/1.dcm',
        lambda p: edit_dicom(p, Rows=HEIGHT // 2, Columns=WIDTH * 2),
        'have shape',
    ),
    ('seg', 'overlapping segments', 'B/seg.dcm', lambda p: write_overlapping(p), 'overlap'),
    (
        'seg',
        'two objects that disagree',
        'B/seg.dcm',
        lambda p: write_second_object(p),
        'overlap those of another',
    ),
    ('png', 'truncated image', PNG_IMAGE, truncate, 'pixels cannot be read'),
    ('png', 'truncated mask', PNG_MASK, truncate, 'cannot be read as PNG'),
    (
        'png',
        'mask of another shape',
        PNG_MASK,
        lambda p: save_png(p, np.ones((HEIGHT, WIDTH - 1), np.uint8)),
        r'shape \(40, 47\)',
    ),
    (
        'png',
        'colour mask',
        PNG_MASK,
        lambda p: save_png(p, np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        'colours',
    ),
    (
        'png',
        'unknown label value',
        PNG_MASK,
        lambda p: save_png(p, np.full((HEIGHT, WIDTH), 9, np.uint8)),
        'label values 9',
    ),
    ('png', 'no mask', PNG_MASK, lambda p: p.unlink(), '0 label files'),
]


def read_sources(folder: Path) -> list:
    return [pydicom.dcmread(path) for path in sorted((folder / 'sa').glob('*.dcm'))]


def write_overlapping(path: Path) -> None:
    maps = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    maps[:, 10:20, 10:20, :2] = 1
    write_segmentation(path, read_sources(path.parent), maps)


def write_second_object(path: Path) -> None:
    maps = np.full((3, HEIGHT, WIDTH), 3, np.uint8)
    write_segmentation(path.with_name('zweites.dcm'), read_sources(path.parent), maps)


@pytest.fixture(scope='session')
def good_runs(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """Source and output of an unbroken conversion by format."""
    made = {}

    def make(name: str) -> tuple[Path, Path]:
        if name == 'seg':
            pytest.importorskip('highdicom')
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            for seed, patient in enumerate('ABC'):
                FORMATS[name].write(folder / 'in', patient, 100 * seed)
            run(name, folder / 'in', folder / 'out')
            made[name] = folder / 'in', folder / 'out'
        return made[name]

    return make


def run(name: str, source: Path, out: Path, **arguments) -> dict:
    return convert(
        FORMATS[name].find(source),
        out,
        Settings(LabelMap.parse(FORMATS[name].labels), patient_ids='folder'),
        Split(val_fraction=0),
        **arguments,
    )


@pytest.mark.parametrize(
    'name, file, spoil, message',
    [(name, file, spoil, message) for name, _, file, spoil, message in BROKEN],
    ids=[f'{case[0]}: {case[1]}' for case in BROKEN],
)
def test_broken_study(name, file, spoil, message, good_runs, tmp_path):
    good_source, good_out = good_runs(name)
    source, out = tmp_path / 'in', tmp_path / 'out'
    shutil.copytree(good_source, source)
    spoil(source / file)

    # It stops with an error that names the place; B has left nothing behind.
    with pytest.raises(ConversionError, match=message) as caught:
        run(name, source, out)
    assert caught.value.remedy and Path(caught.value.path).is_relative_to(source)
    assert set(contents(out)) == {
        path for path in contents(good_out) if path.startswith(('images/A/', 'studies/A.'))
    } | {'conversion.json'}

    # Or it is skipped and listed, and the others are as they should be.
    report = run(name, source, out, on_error='skip')
    (entry,) = report['skipped']
    assert entry['patient_id'] == 'B' and entry['problem'] == caught.value.problem
    assert json.loads((out / 'report.json').read_text())['skipped'] == [entry]
    assert (report['converted'], report['resumed']) == (1, 1)
    good, found = contents(good_out), contents(out)
    assert {path for path in found if '/' in path} == {
        path for path in good if '/' in path and '/B' not in path
    }
    assert all(found[path] == good[path] for path in found if path.endswith('.png'))

    # Once it is repaired, the same command completes the output.
    shutil.rmtree(source)
    shutil.copytree(good_source, source)
    report = run(name, source, out)
    assert (report['converted'], report['resumed'], report['skipped']) == (1, 2, [])
    found = contents(out)
    assert found.keys() == good.keys()
    assert all(found[path] == good[path] for path in good if path != 'report.json')


@pytest.mark.parametrize(
    'name, path, message',
    [('nifti', 'B/seg_sa_ED.nii.gz', r'no affine .*Give|same slices.*--assume-same-grid')],
)
def test_errors_read_as_one_sentence_with_file_and_remedy(good_runs, tmp_path, name, path, message):
    shutil.copytree(good_runs(name)[0], tmp_path / 'in')
    edit_nifti(tmp_path / 'in' / path, coded=False)
    with pytest.raises(ConversionError, match=message) as caught:
        run(name, tmp_path / 'in', tmp_path / 'out')
    assert str(caught.value).startswith(f'{tmp_path / "in" / path}: its header has no affine')


@pytest.mark.parametrize(
    'frames, message', [(dict(ED=3), 'has 3 frames .* ED=3'), (dict(ED=0, ES=2), r'labels: 1')]
)
def test_frames_that_do_not_exist(tmp_path, frames, message):
    write_nifti_patient(tmp_path / 'in' / 'A')
    edit_nifti(tmp_path / 'in' / 'A' / 'sa_ED.nii.gz', lambda a: np.concatenate([a] * 3, -1))
    studies = nifti.find_studies(
        tmp_path / 'in', 'generic', '{patient}/sa_ED.nii.gz', '{patient}/seg_sa_ED.nii.gz', frames
    )
    with pytest.raises(ConversionError, match=message):
        convert(
            studies,
            tmp_path / 'out',
            Settings(LabelMap.parse('1=LV,2=Myo,4=RV')),
            Split(val_fraction=0),
        )


@pytest.mark.parametrize(
    'text, message',
    [(None, 'ED and ES'), ('ED: 1\n', 'ED and ES'), ('ED: one\nES: 2\n', 'ED and ES')],
)
def test_acdc_needs_its_info_file(tmp_path, text, message):
    folder = tmp_path / 'in' / 'p1'
    labels = heart().T[..., None]
    write_nifti(folder / 'p1_frame01.nii.gz', pixels_of(labels), AFFINE)
    write_nifti(folder / 'p1_frame01_gt.nii.gz', np.minimum(labels, 3), AFFINE)
    if text is not None:
        (folder / 'Info.cfg').write_text(text)
    studies = nifti.find_studies(tmp_path / 'in', 'acdc', None, None)
    with pytest.raises(ConversionError, match=message):
        convert(
            studies,
            tmp_path / 'out',
            Settings(LabelMap.parse('3=LV,2=Myo,1=RV')),
            Split(val_fraction=0),
        )


def test_a_missing_spacing_can_be_given(tmp_path):
    write_contour_patient(tmp_path / 'in', 'A')
    for path in (tmp_path / 'in' / 'dicom' / 'A').iterdir():
        edit_dicom(path, PixelSpacing=None)
    (study,) = dicom.find_studies(
        tmp_path / 'in', 'dicom/{patient}', 'contours/{patient}', None, spacing_mm=(1.5, 1.4)
    )
    convert([study], tmp_path / 'out', Settings(LabelMap.parse('1=LV')), Split(val_fraction=0))
    content = json.loads((tmp_path / 'out' / 'train.json').read_text())
    assert {tuple(image['spacing_mm']) for image in content['images']} == {(1.5, 1.4)}
