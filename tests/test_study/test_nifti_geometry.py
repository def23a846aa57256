"""NIfTI headers against affines computed by hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from study_files import area_px, disc, volume_ml

from swin_ext.images.image_file import ImageReadError
from swin_ext.images.reading import open_image
from swin_ext.study.errors import StudyError
from swin_ext.study.nifti_geometry import header_path, read_geometry, slice_positions_mm
from swin_ext.study.reading import nifti_stack, read_study

DIAGONAL = np.diag([1.5, 1.5, 8, 1.0])


def write_nifti(
    path: Path, affine=DIAGONAL, sform=1, qform=0, array=None, units=2, **header
) -> Path:
    """Discs of radius 8 on 3 slices; header fields go in as they are given."""
    array = np.stack([disc(8)] * 3, -1).astype(np.int16) if array is None else array
    image = nibabel.Nifti1Image(array, np.eye(4))
    fields = image.header
    fields['pixdim'][1:4] = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    if qform:
        image.set_qform(affine, qform)
    fields['sform_code'], fields['qform_code'] = sform, qform
    for row, name in zip(np.asarray(affine), ('srow_x', 'srow_y', 'srow_z')):
        fields[name] = row
    fields['xyzt_units'] = units
    for name, value in header.items():
        fields[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    block = bytearray(fields.binaryblock)
    block[108:112] = np.float32(352).tobytes()  # vox_offset
    block[344:348] = b'n+1\0'
    # nibabel's own writer would put right what these tests need wrong.
    content = bytes(block) + b'\0' * 4 + array.tobytes(order='F')
    path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
    return path


def sheared(shift: float) -> np.ndarray:
    affine = DIAGONAL.copy()
    affine[0, 2] = shift
    return affine


ML = 3 * area_px(8) * 1.5 * 1.5 * 8 / 1000


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
@pytest.mark.parametrize(
    'affine',
    [
        DIAGONAL,
        np.diag([-1.5, -1.5, 8, 1]),
        np.diag([1.5, 1.5, -8, 1]),
        np.array([[0, 0, 8, 3], [1.5, 0, 0, 5], [0, -1.5, 0, 7], [0, 0, 0, 1.0]]),
        sheared(4),
        sheared(-6),
    ],
    ids=['plain', 'flipped', 'downwards', 'sagittal', 'sheared', 'sheared back'],
)
@pytest.mark.parametrize('codes', [(1, 0), (0, 1), (1, 1), (4, 1)])
def test_volume_is_area_times_distance_along_the_normal(tmp_path, affine, codes, suffix):
    if codes[0] == 0 and affine[0, 2] not in (0, 8):
        pytest.skip('a qform has no shear')
    stack = nifti_stack(write_nifti(tmp_path / f'a{suffix}', affine, *codes))
    assert volume_ml(stack) == pytest.approx(ML, rel=1e-5)
    assert stack.slice_spacing_mm == pytest.approx(8)
    positions = [item.position_mm for item in stack.slices]
    np.testing.assert_allclose(np.diff(positions), 8, rtol=1e-5)


def test_shear_is_said(tmp_path):
    warnings = nifti_stack(write_nifti(tmp_path / 'a.nii', sheared(4))).warnings
    assert len(warnings) == 1 and 'sheared' in warnings[0]


@pytest.mark.parametrize(
    'units, factor, warns',
    [
        (2, 1, False),
        (1, 1e-3, False),
        (3, 1e3, False),
        (0, 1, False),
        (0 | 8, 1, False),  # with seconds
        (1 | 8, 1e-3, False),
        (1, 1, True),  # 1.5 'metres'
        (3, 1, True),
        (2, 1e-3, True),
        (0, 1e-3, True),
        (0, 1e3, True),
        (5, 1, True),  # no code of the standard
        (7, 1e-3, True),
    ],
)
@pytest.mark.parametrize('codes', [(1, 0), (0, 1), (0, 0)])
def test_units(tmp_path, units, factor, warns, codes):
    affine = np.diag([1.5 * factor, 1.5 * factor, 8 * factor, 1])
    stack = nifti_stack(write_nifti(tmp_path / 'a.nii', affine, *codes, units=units))
    assert volume_ml(stack) == pytest.approx(ML, rel=1e-5)
    assert len(stack.warnings) == warns
    if warns:
        assert 'implausible' in stack.warnings[0] and 'taken' in stack.warnings[0]


@pytest.mark.parametrize('sizes', [(1.5, 1500, 8), (1.5, 1.5, 800), (20, 20, 20)])
def test_sizes_that_no_unit_explains(tmp_path, sizes):
    path = write_nifti(tmp_path / 'a.nii', np.diag([*sizes, 1]))
    with pytest.raises(StudyError, match='those of no cardiac image'):
        read_geometry(path)


@pytest.mark.parametrize('axis', [0, 1])
def test_slices_along_another_axis_are_refused(tmp_path, axis):
    sizes = [1.5, 1.5, 1.5]
    sizes[axis] = 8
    path = write_nifti(tmp_path / 'a.nii', np.diag([*sizes, 1]))
    with pytest.raises(StudyError, match=f'slices lie along axis {axis + 1}'):
        nifti_stack(path)


@pytest.mark.parametrize('sizes', [(1.2, 1.2, 1.2), (2, 2, 1), (1.5, 1.2, 1.3)])
def test_volumes_without_a_coarse_axis_are_taken_as_they_are(tmp_path, sizes):
    stack = nifti_stack(write_nifti(tmp_path / 'a.nii', np.diag([*sizes, 1])))
    assert stack.slice_spacing_mm == pytest.approx(sizes[2])
    assert stack.spacing_mm == pytest.approx(sizes[1::-1])


NAN, INF = np.nan, np.inf
BROKEN = [
    (dict(srow_x=[NAN, 0, 0, 0]), 'sform has entries that are NaN'),
    (dict(srow_y=[0, 1.5, 0, INF]), 'sform has entries that are NaN'),
    (dict(srow_x=[0, 0, 0, 0]), 'sform is singular'),
    (dict(srow_z=[0, 1.5, 0, 0]), 'sform is singular'),
    (dict(srow_x=[1.5, 0.5, 0, 0], pixdim=[1, 0, 0, 0, 1, 1, 1, 1]), 'not perpendicular'),
    (dict(srow_x=[1.2, 0, 0, 0]), 'sform has voxels of 1.2 .* pixdim says 1.5'),
    (dict(srow_z=[0, 0, 10, 0]), 'pixdim says'),
    (dict(sform_code=0, qform_code=1, quatern_b=NAN), 'qform'),
    (dict(sform_code=0, qform_code=1, quatern_b=5), 'qform|cannot be read'),
    (dict(sform_code=0, qform_code=1, qoffset_x=INF), 'qform has entries'),
    (dict(sform_code=0, pixdim=[1, 0, 0, 0, 1, 1, 1, 1]), 'no voxel size'),
    (dict(sform_code=0, pixdim=[1, NAN, 1, 8, 1, 1, 1, 1]), 'no voxel size'),
    (dict(sform_code=0, pixdim=[1, INF, 1, 8, 1, 1, 1, 1]), 'no voxel size'),
    (dict(dim=[3, 48, -48, 3, 1, 1, 1, 1]), 'shape|cannot be read'),
    (dict(dim=[3, 0, 48, 3, 1, 1, 1, 1]), 'shape|cannot be read'),
    (dict(dim=[7, 2, 2, 2, 2, 2, 2, 2]), 'has shape'),
    (dict(dim=[1, 48, 1, 1, 1, 1, 1, 1]), 'has shape'),
    (dict(datatype=999), 'cannot be read'),
]


@pytest.mark.parametrize('fields, message', BROKEN)
def test_broken_headers(tmp_path, fields, message):
    fields = {name: np.array(value) for name, value in fields.items()}
    codes = {key: int(fields.pop(key)) for key in ('sform_code', 'qform_code') if key in fields}
    path = write_nifti(
        tmp_path / 'a.nii',
        sform=codes.get('sform_code', 1),
        qform=codes.get('qform_code', 0),
        **fields,
    )
    with pytest.raises(StudyError, match=message) as caught:
        nifti_stack(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    'fields',
    [
        dict(pixdim=[1, 0, 0, 0, 1, 1, 1, 1]),  # the sform holds alone
        dict(pixdim=[NAN, NAN, NAN, NAN, NAN, 1, 1, 1]),
        dict(quatern_b=NAN, qoffset_x=NAN),  # of a qform that is not coded
        dict(pixdim=[-1, 1.5, 1.5, 8, 0, 0, 0, 0]),
    ],
)
def test_damage_that_does_not_matter(tmp_path, fields):
    stack = nifti_stack(write_nifti(tmp_path / 'a.nii', **fields))
    assert volume_ml(stack) == pytest.approx(ML)


def test_sform_and_qform_at_different_places_are_said(tmp_path):
    path = write_nifti(tmp_path / 'a.nii', qform=1, qoffset_x=40)
    assert 'sform and qform place it differently' in nifti_stack(path).warnings[0]


def test_uncoded_affines_leave_voxel_sizes_and_no_place(tmp_path):
    geometry = read_geometry(write_nifti(tmp_path / 'a.nii', sform=0))
    assert geometry.affine_mm is None and slice_positions_mm(geometry) is None
    assert (geometry.spacing_mm, geometry.slice_spacing_mm) == ((1.5, 1.5), 8)


def test_spacing_is_that_of_rows_then_columns(tmp_path):
    array = np.zeros((30, 40, 2), np.int16)
    path = write_nifti(tmp_path / 'a.nii', np.diag([1.2, 1.6, 9, 1]), array=array)
    geometry = read_geometry(path)
    assert geometry.shape == (30, 40, 2, 1)
    assert geometry.spacing_mm == pytest.approx((1.6, 1.2))


def test_a_missing_spacing_can_be_given(tmp_path):
    path = write_nifti(tmp_path / 'a.nii', sform=0, pixdim=[1, 0, 0, 0, 1, 1, 1, 1])
    assert read_geometry(path, (1.4, 1.3)).spacing_mm == (1.4, 1.3)


def test_frames_of_a_4d_file_are_phases(tmp_path):
    array = np.zeros((48, 48, 3, 4), np.int16)
    for phase, radius in enumerate((16, 12, 8, 12)):
        array[..., phase] = disc(radius)[..., None]
    stack = nifti_stack(write_nifti(tmp_path / 'a.nii', array=array))
    assert stack.num_phases == 4
    assert volume_ml(stack, 2) == pytest.approx(ML)


@pytest.mark.parametrize('given', ['a.hdr', 'a.img'])
def test_pairs_of_header_and_image(tmp_path, given):
    array = np.stack([disc(8)] * 3, -1).astype(np.int16)
    image = nibabel.Nifti1Pair(array, DIAGONAL)
    image.header.set_xyzt_units('mm')
    nibabel.save(image, tmp_path / 'a.hdr')
    (stack,) = read_study(tmp_path / given).stacks
    assert volume_ml(stack) == pytest.approx(ML)
    (stack,) = read_study(tmp_path).stacks  # both files are one volume
    assert stack.slices[0].frames[0].path == tmp_path / 'a.hdr'
    assert header_path((tmp_path / 'b.img',)) == (tmp_path / 'b.img',)


def test_half_a_pair_and_other_formats_are_refused(tmp_path):
    array = np.zeros((4, 4, 2), np.int16)
    nibabel.save(nibabel.Nifti1Pair(array, DIAGONAL), tmp_path / 'a.hdr')
    (tmp_path / 'a.hdr').unlink()
    nibabel.save(nibabel.AnalyzeImage(array, DIAGONAL), tmp_path / 'b.hdr')
    (tmp_path / 'c.nii').write_bytes(b'hello')
    (tmp_path / 'd.nii.gz').write_bytes(gzip.compress(b'hello'))
    for name in ('a.img', 'b.hdr', 'c.nii', 'd.nii.gz'):
        with pytest.raises(StudyError, match='as NIfTI|no NIfTI'):
            read_study(tmp_path / name)


def test_geometry_of_colour_volumes(tmp_path):
    array = np.zeros((8, 8, 2), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    nibabel.save(nibabel.Nifti1Image(array, DIAGONAL), tmp_path / 'a.nii')
    assert read_geometry(tmp_path / 'a.nii').slice_spacing_mm == 8


def test_packaged_files_of_nibabel():
    """Voxel sizes are nibabel's, or the error is one of the package."""
    folder = Path(nibabel.__file__).parent / 'tests' / 'data'
    paths = [path for path in sorted(folder.iterdir()) if path.name.endswith(('.nii', '.nii.gz'))]
    assert paths
    for path in paths:
        try:
            geometry = read_geometry(path)
        except StudyError:
            continue
        x, y, z = nibabel.affines.voxel_sizes(nibabel.load(path).affine)
        unit = 1 if not geometry.warnings else x / geometry.spacing_mm[1]
        assert geometry.spacing_mm == pytest.approx((y / unit, x / unit), rel=1e-4)


@pytest.mark.parametrize(
    'sizes, volume',
    [
        ([-1.5, -1.5, -8], ML),
        ([1.5, 1.5, np.inf], None),
        ([1.5, 1.5, np.nan], None),
        ([1.5, 1.5, 0], None),
        ([np.inf, 1.5, 8], 'no voxel size'),
        ([0, 0, 0], 'no voxel size'),
        ([1.5, np.nan, 8], 'no voxel size'),
        ([3e38, 1.5, 8], 'no cardiac image'),
    ],
    ids=str,
)
def test_voxel_sizes_alone(tmp_path, sizes, volume):
    path = write_nifti(tmp_path / 'a.nii', sform=0, pixdim=[1, *sizes, 0, 0, 0, 0])
    if isinstance(volume, str):
        with pytest.raises(StudyError, match=volume):
            nifti_stack(path)
        return
    stack = nifti_stack(path)
    assert stack.spacing_mm == (1.5, 1.5)
    assert volume is None or volume_ml(stack) == pytest.approx(volume)
    assert (stack.slice_spacing_mm is None) == (volume is None)


@pytest.mark.parametrize('factor, left_handed', [(1, False), (-1, True), (0, False), (7, False)])
def test_handedness_of_a_qform_is_read_as_by_the_library_of_the_standard(
    tmp_path, factor, left_handed
):
    path = write_nifti(tmp_path / 'a.nii', sform=0, qform=1)
    content = bytearray(path.read_bytes())
    content[76:80] = np.float32(factor).tobytes()
    path.write_bytes(content)
    affine = read_geometry(path).affine_mm
    assert (np.linalg.det(affine[:3, :3]) < 0) == left_handed
    assert volume_ml(nifti_stack(path)) == pytest.approx(ML)


@pytest.mark.parametrize('shape', [(48, 48, 3, 1, 2), (48, 48, 3, 2, 2), (48,), (48, 48, 0)])
def test_axes_that_mean_something_else(tmp_path, shape):
    path = write_nifti(tmp_path / 'a.nii', dim=[len(shape), *shape, *[1] * (7 - len(shape))])
    with pytest.raises(StudyError, match='axes|cannot be read'):
        nifti_stack(path)


def test_pixels_do_not_begin_within_the_header(tmp_path):
    """nibabel takes 0 as it stands, and shows bytes of the header as pixels."""
    path = write_nifti(tmp_path / 'a.nii')
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(0).tobytes()
    path.write_bytes(content)
    with pytest.raises(StudyError, match='vox_offset of 0 lies within its header'):
        nifti_stack(path)
    with pytest.raises(ImageReadError, match='vox_offset of 0, which lies within'):
        open_image(path)
