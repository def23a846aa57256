"""File patterns with fields, and splits of patients."""

from __future__ import annotations

import pytest

from swin_ext.conversion.patterns import compile_pattern, find_paths, pair_paths
from swin_ext.conversion.splits import split_patients

PATIENTS = [f'p{i:02d}' for i in range(23)]


@pytest.mark.parametrize(
    'pattern, path, fields',
    [
        ('{patient}/sa_{phase}.nii.gz', 'A/sa_ED.nii.gz', dict(patient='A', phase='ED')),
        ('{patient}/sa_{phase}.nii.gz', 'A/seg_sa_ED.nii.gz', None),
        ('{patient}/sa_{phase}.nii.gz', 'x/A/sa_ED.nii.gz', None),
        ('**/{patient}/sa.nii*', 'x/y/A/sa.nii.gz', dict(patient='A')),
        ('**/{patient}/sa.nii*', 'A/sa.nii', dict(patient='A')),
        ('{patient}/{patient}_frame{frame}.nii', 'A/A_frame01.nii', dict(patient='A', frame='01')),
        ('{patient}/{patient}_frame{frame}.nii', 'A/A_frame01_gt.nii', None),
        ('{patient}/{patient}_frame{frame}.nii', 'A/B_frame01.nii', None),
        (
            '{patient}-IM-*-{frame}.png',
            'SC-HF-I-01-IM-0001-0048.png',
            dict(patient='SC-HF-I-01', frame='0048'),
        ),
        ('{patient}/a.b', 'A/axb', None),  # a dot is a dot
    ],
)
def test_patterns(pattern, path, fields):
    match = compile_pattern(pattern).fullmatch(path)
    assert (match.groupdict() if match else None) == fields


@pytest.mark.parametrize(
    'pattern, message',
    [
        ('*/sa.nii.gz', r'no \{patient\}'),
        ('{patient}/{name}.nii', 'unknown fields'),
    ],
)
def test_bad_patterns(pattern, message):
    with pytest.raises(ValueError, match=message):
        compile_pattern(pattern)


def test_files_are_paired_by_their_fields(tmp_path):
    for name in ('A/i_ED', 'A/i_ES', 'A/l_ES', 'B/l_ED', '.C/i_ED', 'D/._i_ED'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    pairs = pair_paths(tmp_path, '{patient}/i_{phase}', '{patient}/l_{phase}')
    assert [(fields, len(images), len(labels)) for fields, images, labels in pairs] == [
        (dict(patient='A', phase='ED'), 1, 0),
        (dict(patient='A', phase='ES'), 1, 1),
        (dict(patient='B', phase='ED'), 0, 1),
    ]
    with pytest.raises(ValueError, match='same fields'):
        pair_paths(tmp_path, '{patient}/i_{phase}', '{patient}/l_ED')
    with pytest.raises(ValueError, match='no folder'):
        find_paths(tmp_path / 'nowhere', '{patient}')


@pytest.mark.parametrize(
    'arguments',
    [dict(val_fraction=0.2), dict(val_patients=['p03', 'p07']), dict(folds=4), dict(folds=23)],
)
@pytest.mark.parametrize('seed', [0, 1])
def test_no_patient_is_on_both_sides_of_a_split(arguments, seed):
    splits = split_patients(PATIENTS, **arguments, seed=seed)
    names = [name[5:] for name in splits if name.startswith('train')]
    assert len(splits) == 2 * len(names) == 2 * arguments.get('folds', 1)
    for name in names:
        train, val = splits[f'train{name}'], splits[f'val{name}']
        assert train and val and sorted(train + val) == PATIENTS
    if 'folds' in arguments:  # everybody is held out once, in folds of equal size
        held_out = [patient for name in names for patient in splits[f'val{name}']]
        sizes = [len(splits[f'val{name}']) for name in names]
        assert sorted(held_out) == PATIENTS and max(sizes) - min(sizes) <= 1


def test_splits_depend_on_the_seed_alone():
    split = split_patients(PATIENTS, 0.2, seed=3)
    assert split == split_patients(PATIENTS[::-1], 0.2, seed=3)
    assert split != split_patients(PATIENTS, 0.2, seed=4)
    assert len(split['val']) == 5  # 0.2 * 23 rounded
    assert split['val'] == ['p01', 'p05', 'p10', 'p16', 'p20']  # recorded: stays so


@pytest.mark.parametrize(
    'patients, arguments, message',
    [
        (PATIENTS, dict(folds=1), 'at least 2'),
        (['a'], dict(folds=2), 'at most one per patient'),
        (PATIENTS, dict(val_patients=['p99']), 'p99 not found'),
        (PATIENTS, dict(val_fraction=1.0), 'below 1'),
        (['a'], dict(val_fraction=0.5), 'no patient'),
        (['a', 'b'], dict(val_patients=['a', 'b']), 'train would have no patient'),
    ],
)
def test_impossible_splits(patients, arguments, message):
    with pytest.raises(ValueError, match=message):
        split_patients(patients, **arguments)
