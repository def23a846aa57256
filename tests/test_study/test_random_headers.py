"""Random headers: data that a closed form confirms, or one of the package's own errors.

`python -m pytest -m slow tests/test_study/test_random_headers.py` tries many more.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_files import AXIAL, CORONAL, area_px, disc, strip_preamble, volume_ml, write_dicom
from test_nifti_geometry import write_nifti

from swin_ext.study.reading import read_study
from swin_ext.utils.errors import UserError

RADIUS, SMALL = 8, 20


def examples(number: int):
    return settings(
        max_examples=number,
        deadline=5000,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def numbers(low: float = -1e4, high: float = 1e4) -> st.SearchStrategy:
    return st.one_of(
        st.floats(low, high).map(lambda value: float(f'{value:.6g}')),
        st.sampled_from([0, 1, 8, -8, 1e-3, math.nan, math.inf]),
    )


# Bytes of elements as any program may have written them: right, wrong, too few, too many, empty.
def texts(*values: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.tuples(*values).map(lambda found: '\\'.join(f'{value:.6g}' for value in found)),
        st.sampled_from(['', ' ', 'x', '1\\', '\\', '1\\2\\3\\4', 'nan', '-0', '1e400']),
    )


DAMAGE = dict(
    ImagePositionPatient=('DS', texts(*[numbers()] * 3)),
    ImageOrientationPatient=('DS', texts(*[numbers(-1, 1)] * 6)),
    PixelSpacing=('DS', texts(*[numbers(0, 3)] * 2)),
    SpacingBetweenSlices=('DS', texts(numbers())),
    SliceThickness=('DS', texts(numbers())),
    SliceLocation=('DS', texts(numbers())),
    TriggerTime=('DS', texts(numbers())),
    TemporalPositionIdentifier=('IS', texts(st.integers(-5, 50))),
    NominalPercentageOfCardiacPhase=(
        'FL',
        st.binary(max_size=9).map(lambda raw: raw.decode('latin-1')),
    ),
    AcquisitionTime=('TM', texts(st.integers(0, 240000))),
    InstanceNumber=('IS', texts(st.integers(-5, 1000))),
    CardiacNumberOfImages=('IS', texts(st.integers(-5, 1000))),
    NumberOfFrames=('IS', texts(st.integers(-5, 1000))),
    Rows=('US', st.binary(max_size=5).map(lambda raw: raw.decode('latin-1'))),
    SOPClassUID=('UI', st.text('0123456789.', max_size=20)),
)
damages = st.dictionaries(st.sampled_from(list(DAMAGE)), st.just(None), max_size=3).flatmap(
    lambda keys: st.fixed_dictionaries({key: DAMAGE[key][1] for key in keys})
)

cines = st.fixed_dictionaries(
    dict(
        slices=st.integers(1, 4),
        phases=st.integers(1, 3),
        step=st.sampled_from([0.5, 6, 8, 10.25]),
        missing=st.sets(st.integers(1, 2), max_size=1),
        slice_first=st.booleans(),
        flipped=st.booleans(),
        orientation=st.sampled_from([AXIAL, CORONAL, [0.6, 0.8, 0, 0, 0, -1]]),
        spacing=st.sampled_from([(1.5, 1.5), (1.25, 1.0)]),
        tags=st.sets(
            st.sampled_from(
                [
                    'TriggerTime',
                    'TemporalPositionIdentifier',
                    'NominalPercentageOfCardiacPhase',
                    'AcquisitionTime',
                    'CardiacNumberOfImages',
                    'SpacingBetweenSlices',
                    'SliceThickness',
                    'SliceLocation',
                ]
            )
        ),
        bare=st.booleans(),
    )
)


def write_cine(folder: Path, cine: dict) -> tuple[list[Path], dict[int, float]]:
    """Files in a random convention, and the volume in ml of each phase."""
    orientation = np.array(cine['orientation'], float)
    normal = np.cross(orientation[:3], orientation[3:])
    places = [
        z for z in range(cine['slices']) if z not in cine['missing'] or z == cine['slices'] - 1
    ]
    rows, columns = cine['spacing']
    paths, volumes = [], {}
    for phase in range(cine['phases']):
        radius = RADIUS - phase
        # A gap of two slices at the ends cannot be told from a distance twice as large.
        volumes[phase] = len(places) * area_px(radius) * rows * columns / 1000
        for rank, z in enumerate(places):
            number = (
                rank * cine['phases'] + phase if cine['slice_first'] else phase * len(places) + rank
            ) + 1
            values = dict(
                TriggerTime=40.5 * phase * (1 + 0.3 * z),
                TemporalPositionIdentifier=phase + 1,
                NominalPercentageOfCardiacPhase=100.0 * phase / cine['phases'],
                AcquisitionTime=f'1011{z:02d}.{phase}',
                CardiacNumberOfImages=cine['phases'],
                SpacingBetweenSlices=cine['step'],
                SliceThickness=cine['step'] * 0.8,
                SliceLocation=-0.66 * z,
            )
            turned = orientation.copy()
            if cine['flipped'] and z % 2:
                turned[3:] *= -1
            paths.append(folder / f'{number * 37 % 101:03d}.dcm')  # files are in no order
            write_dicom(
                paths[-1],
                number,
                disc(radius, SMALL),
                ImagePositionPatient=np.round(normal * z * cine['step'], 6).tolist(),
                ImageOrientationPatient=turned.tolist(),
                PixelSpacing=list(cine['spacing']),
                **{key: values[key] for key in cine['tags']},
            )
            if cine['bare'] and number == 1:
                strip_preamble(paths[-1])
    gaps = np.diff(places) * cine['step']
    distance = gaps.min() if len(gaps) else None
    if distance is None and 'SpacingBetweenSlices' in cine['tags']:
        distance = cine['step']
    if distance is None and 'SliceThickness' in cine['tags']:
        distance = cine['step'] * 0.8
    return paths, {
        phase: None if distance is None else area * distance for phase, area in volumes.items()
    }


def check_sound_cine(cine: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _, volumes = write_cine(Path(folder), cine)
        (stack,) = read_study(folder).stacks
        assert stack.num_phases == cine['phases']
        for phase, volume in volumes.items():
            if volume is None:
                assert stack.slice_spacing_mm is None
            else:
                assert volume_ml(stack, phase) == pytest.approx(volume, rel=1e-4)


def check_damaged_cine(cine: dict, damage: dict, which: int) -> None:
    """One file of a cine is damaged; what is read of it nevertheless is the truth or less."""
    with tempfile.TemporaryDirectory() as folder:
        paths, volumes = write_cine(Path(folder), dict(cine, bare=False))
        path = paths[which % len(paths)]
        dataset = pydicom.dcmread(path)
        for keyword, value in damage.items():
            tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
            raw = value.encode('latin-1')
            dataset[tag] = pydicom.dataelem.RawDataElement(
                tag, DAMAGE[keyword][0], len(raw), raw, 0, False, True, True
            )
        dataset.save_as(path)
        try:
            stacks = read_study(folder).stacks
        except UserError as error:
            assert str(error)
            return
        for stack in stacks:
            assert stack.num_phases >= 1 and stack.slices
            assert all(math.isfinite(size) and size > 0 for size in stack.spacing_mm)
            assert stack.slice_spacing_mm is None or stack.slice_spacing_mm > 0
            numbers = [item.number for item in stack.slices]
            assert numbers == sorted(set(numbers))
        # Damage to supporting tags alone never changes a volume that is told.
        supporting = {
            'SpacingBetweenSlices',
            'SliceThickness',
            'SliceLocation',
            'CardiacNumberOfImages',
        }
        if set(damage) <= supporting and cine['slices'] > 1 and len(stacks) == 1:
            (stack,) = stacks
            if len(stack.slices) > 1 and stack.slice_spacing_mm:
                for phase, volume in volumes.items():
                    assert volume_ml(stack, phase) == pytest.approx(volume, rel=1e-4)


affines = st.fixed_dictionaries(
    dict(
        sizes=st.tuples(
            *[st.sampled_from([0.8, 1.25, 1.5, 8.0])] * 2, st.sampled_from([0.8, 6, 8.0])
        ),
        angle=st.floats(0, 6.28),
        tilt=st.floats(0, 6.28),
        shear=st.tuples(*[st.sampled_from([0, 0, 0.3, -0.5])] * 2),
        signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
        unit=st.sampled_from([0, 1, 2, 3, 4, 5, 7]),
        scale=st.sampled_from([1, 1, 1e-3, 1e3]),
        codes=st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 1), (0, 0)]),
    )
)
nifti_damages = st.dictionaries(
    st.sampled_from(
        [
            'srow_x',
            'srow_y',
            'srow_z',
            'pixdim',
            'quatern_b',
            'quatern_c',
            'qoffset_x',
            'dim',
            'datatype',
            'magic',
            'sform_code',
            'xyzt_units',
        ]
    ),
    st.lists(numbers(-100, 100), min_size=8, max_size=8),
    max_size=2,
)


def check_nifti(spec: dict, damage: dict) -> None:
    cosine, sine = math.cos(spec['angle']), math.sin(spec['angle'])
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    cosine, sine = math.cos(spec['tilt']), math.sin(spec['tilt'])
    turn = turn @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    grid = np.diag(np.array(spec['sizes']) * spec['signs'])
    if spec['codes'] == (1, 0):
        grid[0, 2], grid[1, 2] = np.array(spec['shear']) * spec['sizes'][2]
    affine = np.eye(4)
    affine[:3, :3] = turn @ grid * spec['scale']
    array = np.stack([disc(RADIUS, SMALL)] * 3, -1).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'a.nii'
        # The normal of the slices, written out for the sizes before any turn.
        write_nifti(path, affine, *spec['codes'], array=array, units=spec['unit'])
        if damage:
            content = bytearray(path.read_bytes())
            header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
            with np.errstate(all='ignore'):
                for name, values in damage.items():
                    field = header[name]
                    if field.dtype.kind == 'S':
                        header[name] = b'n+9'
                    elif field.dtype.kind in 'iu':
                        values = np.nan_to_num(np.array(values), posinf=99, neginf=-9)
                        info = np.iinfo(field.dtype)
                        values = np.clip(values, info.min, info.max).astype(field.dtype)
                        header[name] = values[: field.size].reshape(field.shape)
                    else:
                        header[name] = np.array(values)[: field.size].reshape(field.shape)
            content[:348] = header.binaryblock
            path.write_bytes(bytes(content))
        try:
            (stack,) = read_study(path).stacks
        except UserError as error:
            assert str(error)
            return
        assert all(math.isfinite(size) and size > 0 for size in stack.spacing_mm)
        if not damage:
            volume = 3 * area_px(RADIUS) * math.prod(spec['sizes']) / 1000
            assert volume_ml(stack) == pytest.approx(volume, rel=1e-3)


@examples(50)
@given(cines)
def test_sound_cines_in_any_convention(cine):
    check_sound_cine(cine)


@examples(75)
@given(cines, damages, st.integers(0, 20))
def test_damaged_cines(cine, damage, which):
    check_damaged_cine(cine, damage, which)


@examples(75)
@given(affines, st.one_of(st.just({}), nifti_damages))
def test_nifti_headers(spec, damage):
    check_nifti(spec, damage)


@pytest.mark.slow
@examples(2000)
@given(cines)
def test_many_sound_cines(cine):
    check_sound_cine(cine)


@pytest.mark.slow
@examples(2000)
@given(cines, damages, st.integers(0, 20))
def test_many_damaged_cines(cine, damage, which):
    check_damaged_cine(cine, damage, which)


@pytest.mark.slow
@examples(2000)
@given(affines, st.one_of(st.just({}), nifti_damages))
def test_many_nifti_headers(spec, damage):
    check_nifti(spec, damage)
