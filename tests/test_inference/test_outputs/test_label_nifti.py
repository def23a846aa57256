"""Label files against nibabel and SimpleITK."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK
from segmented import segmented

from segmentable import expected_affine, truths, write_cine, write_nifti
from swin_ext.inference.outputs.label_nifti import LABEL_FILE, write_label_nifti

GEOMETRY = 348  # bytes of the header of NIfTI-1


def written(tmp_path, study, stack):
    folder = tmp_path / 'out'
    folder.mkdir()
    write_label_nifti(study, stack, folder)
    return folder / LABEL_FILE


def test_of_dicom_the_affine_is_that_of_the_frames(tmp_path):
    study, stack, _ = segmented(write_cine(tmp_path / 'in'))
    path = written(tmp_path, study, stack)
    image = nibabel.load(path)
    assert image.shape == (48, 40, 3, 4) and image.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj).transpose(3, 2, 1, 0), truths())
    for affine, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert np.allclose(affine, expected_affine(), atol=1e-4) and code == 1
    assert image.header.get_xyzt_units() == ('mm', 'msec')
    assert np.allclose(image.header.get_zooms(), (1.5, 1.25, 8, 50), atol=1e-5)

    peer = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(peer), truths())
    lps = np.diag([-1, -1, 1, 1]) @ expected_affine()
    point = peer.TransformContinuousIndexToPhysicalPoint([7, 11, 2, 0])
    assert np.allclose(point[:3], (lps @ [7, 11, 2, 1])[:3], atol=1e-3)


def test_simpleitk_reads_the_source_in_the_same_place(tmp_path):
    """One phase: the volume that SimpleITK makes of the DICOM files lies where the labels lie."""
    folder = write_cine(tmp_path / 'in', phases=1)
    study, stack, _ = segmented(folder)
    labels = SimpleITK.ReadImage(str(written(tmp_path, study, stack)))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    source = reader.Execute()
    resampled = SimpleITK.Resample(
        labels, source, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
    )
    pixels = SimpleITK.GetArrayFromImage(source)
    found = SimpleITK.GetArrayFromImage(resampled)
    for label, value in ((1, 300), (2, 100), (3, 200)):
        assert np.array_equal(found == label, pixels == value) and (found == label).any()


def sheared() -> np.ndarray:
    affine = expected_affine()
    affine[:3, 2] += affine[:3, 0]
    return affine


@pytest.mark.parametrize('phases', [1, 4])
@pytest.mark.parametrize(
    'change',
    [
        {},
        dict(sform_code=0, qform_code=2),
        dict(sform_code=3, qform_code=0),
        dict(sform_code=0, qform_code=0),
        dict(xyzt_units=0),
        dict(affine=sheared()),
    ],
    ids=['both', 'qform', 'sform', 'none', 'no units', 'sheared'],
)
def test_of_nifti_the_geometry_is_copied_bit_by_bit(tmp_path, phases, change):
    source = write_nifti(tmp_path / 'in.nii.gz', truths(phases), **change)
    study, stack, _ = segmented(source)
    path = written(tmp_path, study, stack)
    heads = [nibabel.load(file).header for file in (source, path)]
    raw = [
        np.frombuffer(gzip.open(file).read(GEOMETRY), nibabel.nifti1.header_dtype)
        for file in (source, path)
    ]
    for field in (
        'dim pixdim xyzt_units qform_code sform_code quatern_b quatern_c quatern_d qoffset_x '
        'qoffset_y qoffset_z srow_x srow_y srow_z'
    ).split():
        assert raw[0][field].tobytes() == raw[1][field].tobytes(), field
    assert np.array_equal(heads[0].get_best_affine(), heads[1].get_best_affine())
    image = nibabel.load(path)
    assert image.shape == nibabel.load(source).shape
    array = np.asarray(image.dataobj)
    assert np.array_equal(array.reshape(48, 40, 3, phases).transpose(3, 2, 1, 0), truths(phases))
    if 'affine' not in change and change.get('sform_code', 1) + change.get('qform_code', 1):
        one, other = (SimpleITK.ReadImage(str(file)) for file in (source, path))
        assert one.GetOrigin() == other.GetOrigin() and one.GetSpacing() == other.GetSpacing()
        assert one.GetDirection() == other.GetDirection()


@pytest.mark.parametrize('kind', ['nifti2', 'pair', 'big endian', 'trailing axis', '2-D'])
def test_other_kinds_of_nifti(tmp_path, kind):
    labels = truths(1)
    array = np.choose(labels, (0, 300, 100, 200)).astype(np.int16)
    array[..., 0, 0] = 350
    array = array.transpose(3, 2, 1, 0)
    array = {'trailing axis': array, '2-D': array[:, :, 0, 0]}.get(kind, array[..., 0])
    path = tmp_path / ('in.hdr' if kind == 'pair' else 'in.nii')
    if kind == 'big endian':
        header = nibabel.Nifti1Header(endianness='>')
        image = nibabel.Nifti1Image(array, expected_affine(), header)
    else:
        make = {'nifti2': nibabel.Nifti2Image, 'pair': nibabel.Nifti1Pair}
        image = make.get(kind, nibabel.Nifti1Image)(array, expected_affine())
    nibabel.save(image, path)
    study, stack, _ = segmented(path)
    found = nibabel.load(written(tmp_path, study, stack))
    assert found.shape == array.shape and np.array_equal(found.affine, nibabel.load(path).affine)
    expected = labels[0, :1] if kind == '2-D' else labels[0]
    assert np.array_equal(np.asarray(found.dataobj).reshape(48, 40, -1).T, expected)


def test_texts_and_extensions_are_left_behind(tmp_path):
    study, stack, _ = segmented(write_nifti(tmp_path / 'PLANTED.nii.gz', truths()))
    path = written(tmp_path, study, stack)
    assert b'PLANTED' not in gzip.open(path).read() and b'PLANTED' not in path.read_bytes()
    assert not nibabel.load(path).header.extensions


def test_a_missing_slice_is_background(tmp_path):
    write_cine(tmp_path / 'in', slices=4)
    for number in range(5, 9):
        (tmp_path / 'in' / f'{number}.dcm').unlink()
    study, stack, _ = segmented(tmp_path / 'in')
    image = nibabel.load(written(tmp_path, study, stack))
    expected = truths(slices=4)
    expected[:, 2] = 0
    assert np.array_equal(np.asarray(image.dataobj).transpose(3, 2, 1, 0), expected)
    assert np.allclose(image.affine, expected_affine(), atol=1e-4)


def test_pictures_have_a_size_and_no_place(tmp_path):
    np.save(
        tmp_path / 'in.npy', np.choose(truths(), (0, 300, 100, 200)) + 350 * (np.arange(48) < 1)
    )
    study, stack, _ = segmented(tmp_path / 'in.npy', spacing_mm=(1.25, 1.5, 8.0))
    image = nibabel.load(written(tmp_path, study, stack))
    assert (image.header['sform_code'], image.header['qform_code']) == (0, 0)
    assert np.allclose(image.header.get_zooms()[:3], (1.5, 1.25, 8))


def test_real_data(real_data, tmp_path):
    source = real_data / 'autofd_nifti' / 'nifti' / 'F' / 'sa_ED.nii.gz'
    study, stack, _ = segmented(source)
    image = nibabel.load(written(tmp_path, study, stack))
    assert np.array_equal(image.affine, nibabel.load(source).affine)
    assert image.shape == nibabel.load(source).shape
    assert np.array_equal(np.asarray(image.dataobj)[..., 0].T, study.labels[0])
