"""The command line of tools/cmr2coco.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'test_conversion'))
from cmr_files import (
    contents,
    read_coco,
    write_contour_patient,
    write_nifti_patient,
    write_png_patient,
    write_segmentation_patient,
)

from swin_ext.conversion.command import main

NIFTI = [
    'nifti',
    '{root}',
    '--image',
    '{patient}/sa_{phase}.nii.gz',
    '--label',
    '{patient}/seg_sa_{phase}.nii.gz',
    '--labels',
    '1=LV,2=Myo,4=RV',
]
CONTOURS = [
    'dicom',
    '{root}',
    '--images',
    'dicom/{patient}',
    '--contours',
    'contours/{patient}',
    '--labels',
    '1=LV,2=Myo',
]
SEG = [
    'dicom',
    '{root}',
    '--images',
    '{patient}',
    '--segmentations',
    '{patient}',
    '--labels',
    '1=LV,2=Myo,3=RV',
]
PNG = [
    'png',
    '{root}',
    '--image',
    'images/{patient}_{slice}.png',
    '--label',
    'masks/{patient}_{slice}.png',
    '--spacing-mm',
    '1.25',
    '--labels',
    '1=LV,2=Myo,4=RV',
]


@pytest.fixture
def cmr2coco(tmp_path):
    """Run the tool on tmp_path/in into tmp_path/out."""

    def run(command: list[str], *arguments: str, out: str = 'out') -> Path:
        command = [word.replace('{root}', str(tmp_path / 'in')) for word in command]
        main([*command, '--out', str(tmp_path / out), *arguments])
        return tmp_path / out

    return run


@pytest.fixture
def nifti_source(tmp_path) -> Path:
    for seed, patient in enumerate('ABCDE'):
        write_nifti_patient(tmp_path / 'in' / patient, 10 * seed)
    return tmp_path / 'in'


def test_nifti(cmr2coco, nifti_source, capsys):
    out = cmr2coco(NIFTI, '--val-patients', 'B', 'C', '--patient-ids', 'folder')
    assert {image['patient_id'] for image in read_coco(out / 'val.json')} == {'B', 'C'}
    printed = capsys.readouterr().out
    assert 'train.json: 12 images (3 without a label); instances: LV 9, Myo 9, RV 9' in printed
    assert '5 studies converted, 0 were finished before, 0 skipped' in printed
    cmr2coco(NIFTI, '--val-patients', 'B', 'C', '--patient-ids', 'folder')
    assert '0 studies converted, 5 were finished before' in capsys.readouterr().out


@pytest.mark.parametrize(
    'command, write, images',
    [
        (CONTOURS, write_contour_patient, 2),
        (PNG, write_png_patient, 2),
        (SEG, lambda root, patient: write_segmentation_patient(root, patient), 3),  # 1 unlabelled
    ],
    ids=['contours', 'png', 'seg'],
)
def test_other_formats(cmr2coco, tmp_path, command, write, images):
    if command is SEG:
        pytest.importorskip('highdicom')
    write(tmp_path / 'in', 'A')
    out = cmr2coco(command, '--val-fraction', '0')
    assert len(read_coco(out / 'train.json')) == images
    assert not (out / 'val.json').exists()


def test_default_split_and_pseudonyms(cmr2coco, nifti_source):
    out = cmr2coco(NIFTI)
    patients = [
        {image['patient_id'] for image in read_coco(out / f'{name}.json')}
        for name in ('train', 'val')
    ]
    assert [len(ids) for ids in patients] == [4, 1] and not patients[0] & patients[1]
    assert all(len(name) == 11 and name.startswith('p') for name in patients[0] | patients[1])
    assert not any('source_file' in image for image in read_coco(out / 'train.json'))
    assert all(len(image['source_sha256']) == 64 for image in read_coco(out / 'train.json'))


def test_pixels_stay_in_the_source_files(cmr2coco, nifti_source):
    out = cmr2coco(NIFTI, '--pixels', 'none', '--patient-ids', 'folder', '--workers', '2')
    for image in read_coco(out / 'train.json'):
        assert (nifti_source / image['file_name']).is_file()
        assert image['slice_index'] == image['slice'] and image['frame_index'] == 0
    assert not (out / 'images').exists()


@pytest.mark.parametrize(
    'command, arguments, message',
    [
        (
            NIFTI,
            ['--image', '{patient}/nothing.nii.gz', '--label', '{patient}/no.nii.gz'],
            'no study found: nothing below',
        ),
        (NIFTI[:-2], [], '--labels says which'),
        (NIFTI, ['--labels', '1:LV'], 'not VALUE=CLASS'),
        (NIFTI, ['--pixels', 'none'], '--patient-ids folder'),
        (NIFTI, ['--window', '99', '1'], 'LOWER < UPPER'),
        (NIFTI, ['--workers', '0'], 'at least 1'),
        (NIFTI, ['--folds', '9'], 'there are 5 patients'),
        (NIFTI, ['--val-patients', 'Z'], 'Z not found; the patients are A, B, C, D, E'),
        (NIFTI, ['--folds', '2', '--val-fraction', '0.5'], 'not allowed with'),
        (NIFTI, ['--frames', 'ED'], 'not PHASE=INDEX'),
        (NIFTI, ['--frames', 'ED=\u00b2'], 'not PHASE=INDEX'),
        (NIFTI, ['--frames', 'ED=0,ED=9'], 'has ED twice'),
        (SEG, ['--fill', 'touched'], 'only contours are filled'),
        (NIFTI, ['--image', 'sa.nii.gz', '--label', 'seg.nii.gz'], 'no {patient}'),
        (NIFTI, ['--layout', 'acdc'], 'set by --layout acdc'),
        (['nifti', '{root}', '--labels', '1=LV'], [], 'needs --image and --label'),
        (['nifti', '{root}', '--layout', 'mnms'], [], 'has 0 CSV files'),
        (['nifti', '{root}/nowhere', *NIFTI[2:]], [], 'is no folder'),
        (PNG, ['--spacing-mm', '-1'], 'no pixel spacing in mm'),
        (PNG[:-4] + PNG[-2:], [], 'give it with --spacing-mm'),
        (CONTOURS, ['--labels', '1=LV,4=RV'], 'contours have the labels 1'),
        (CONTOURS, ['--link', 'missing.csv'], 'needs a header and two columns'),
    ],
)
def test_bad_arguments(cmr2coco, nifti_source, tmp_path, capsys, command, arguments, message):
    with pytest.raises(SystemExit) as caught:
        cmr2coco(command, *arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_output_is_not_replaced_unasked(cmr2coco, nifti_source, capsys):
    before = contents(cmr2coco(NIFTI))
    with pytest.raises(SystemExit):
        cmr2coco(NIFTI, '--folds', '5')
    assert '--overwrite' in capsys.readouterr().err
    out = cmr2coco(NIFTI, '--folds', '5', '--overwrite')
    assert 'train.json' in before and not (out / 'train.json').exists()
    assert (out / 'val_fold4.json').is_file()


def test_broken_study_stops_with_a_message_or_is_skipped(cmr2coco, nifti_source, tmp_path, capsys):
    (nifti_source / 'B' / 'seg_sa_ED.nii.gz').unlink()
    with pytest.raises(SystemExit, match=r'(?s)error: .*no label file.*--on-error skip') as caught:
        cmr2coco(NIFTI)
    assert isinstance(caught.value.code, str)  # printed, with exit status 1
    out = cmr2coco(NIFTI, '--on-error', 'skip')
    printed = capsys.readouterr()
    assert '3 studies converted, 1 were finished before, 1 skipped' in printed.out
    assert 'skipped: ' in printed.err
    assert len(json.loads((out / 'report.json').read_text())['skipped']) == 1


def test_class_that_never_occurs_is_pointed_out(cmr2coco, nifti_source, capsys):
    cmr2coco(NIFTI, '--labels', '1=LV,2=Myo,4=RV,9=LA')
    assert 'WARNING: no instance of LA anywhere' in capsys.readouterr().out


def test_labels_can_be_left_out(cmr2coco, nifti_source):
    out = cmr2coco(NIFTI, '--labels', '1=LV', '--ignore-labels', '2,4')
    masks = [set(image['masks']) for image in read_coco(out / 'train.json')]
    assert masks == [set(), {'LV'}, {'LV'}, {'LV'}] * 4


# ---- start --------------------------------------------------------------------------------------

TOOLS = Path(__file__).parents[2] / 'tools'
PROGRAM = """
import runpy, sys
sys.argv = {argv!r}
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as error:
    assert not error.code, error.code
heavy = {heavy!r}
print('LOADED', sorted(set(heavy) & set(sys.modules)))
"""


def modules_loaded(argv: list[str], heavy: list[str]) -> str:
    program = PROGRAM.format(argv=argv, heavy=heavy)
    root = str(TOOLS.parent)
    environment = {**os.environ, 'PYTHONPATH': root}
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize('tool', ['cmr2coco', 'coco2semantic', 'make_cmr_phantom'])
def test_help_needs_nothing_heavy(tool):
    heavy = ['torch', 'mmdet', 'mmengine', 'mmcv', 'cv2', 'numpy', 'nibabel', 'pydicom']
    found = modules_loaded([str(TOOLS / f'{tool}.py'), '--help'], heavy)
    assert found == 'LOADED []'


@pytest.mark.parametrize(
    'command, write', [(PNG, write_png_patient), (CONTOURS, write_contour_patient)]
)
def test_converting_needs_no_mmdet(tmp_path, command, write):
    write(tmp_path / 'in', 'A')
    words = [word.replace('{root}', str(tmp_path / 'in')) for word in command]
    argv = [
        str(TOOLS / 'cmr2coco.py'),
        *words,
        '--out',
        str(tmp_path / 'out'),
        '--val-fraction',
        '0',
    ]
    assert modules_loaded(argv, ['torch', 'mmdet', 'mmengine', 'mmcv']) == 'LOADED []'
    assert (tmp_path / 'out' / 'train.json').is_file()


def test_choices_of_the_command_line_are_those_of_the_readers():
    from swin_ext.conversion import choices, nifti

    assert tuple(nifti.LAYOUTS) == choices.LAYOUTS


@pytest.mark.parametrize('fill, larger', [('centres', False), ('touched', True)])
def test_fill(cmr2coco, tmp_path, fill, larger):
    write_contour_patient(tmp_path / 'in', 'A')
    out = cmr2coco([*CONTOURS[:-1], '1=LV'], '--val-fraction', '0', '--fill', fill)
    areas = [image['masks']['LV'].sum() for image in read_coco(out / 'train.json')]
    exact = [3.14159 * radius**2 for radius in (5, 8, 5, 8)]
    assert (sum(areas) > 1.05 * sum(exact)) == larger
    assert larger or sum(areas) == pytest.approx(sum(exact), rel=0.02)


def test_other_fill_is_written_by_the_next_run(cmr2coco, tmp_path, capsys):
    write_contour_patient(tmp_path / 'in', 'A')
    for fill in ('centres', 'touched'):
        out = cmr2coco([*CONTOURS[:-1], '1=LV'], '--val-fraction', '0', '--fill', fill)
    fresh = cmr2coco([*CONTOURS[:-1], '1=LV'], '--val-fraction', '0', '--fill', fill, out='fresh')
    assert (out / 'train.json').read_bytes() == (fresh / 'train.json').read_bytes()


def test_withdrawn_patients_are_told(cmr2coco, nifti_source, capsys):
    cmr2coco(NIFTI)
    shutil.rmtree(nifti_source / 'A')
    cmr2coco(NIFTI)
    assert '1 patients of an earlier run are no longer there' in capsys.readouterr().out
