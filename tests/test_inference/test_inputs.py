"""Which studies are found in files, folders and trees."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentable import UID_ROOT, pixels_of, truth, truths, write_cine, write_dicom, write_nifti
from swin_ext.inference.inputs import InputError, find_studies
from swin_ext.inference.study_stack import read_stack


def found_in(*inputs: Path, exclude: Path | None = None):
    skipped = Counter()
    return list(find_studies(inputs, skipped, exclude)), skipped


def test_each_kind_of_input(tmp_path):
    root = tmp_path / 'tree'
    write_cine(root / 'dicom')
    write_nifti(root / 'nifti' / 'cine.nii.gz', truths())
    (root / 'png').mkdir()
    for z in (10, 2, 1):
        cv2.imwrite(str(root / 'png' / f'slice{z}.png'), pixels_of(truth(0, 0)).clip(0, 255))
    (root / 'npy').mkdir()
    np.save(root / 'npy' / 'cine.npy', pixels_of(truths()))
    (root / 'notes.txt').write_text('nothing')
    studies, skipped = found_in(root)
    by_label = {study.label: study for study in studies}
    assert {label: study.kind for label, study in by_label.items()} == {
        'tree/dicom': 'dicom',
        'tree/nifti/cine.nii.gz': 'nifti',
        'tree/npy/cine.npy': 'pictures',
        'tree/png': 'pictures',
    }
    assert [path.stem for path in by_label['tree/png'].files] == ['slice1', 'slice2', 'slice10']
    assert skipped == {'neither DICOM, NIfTI, PNG, JPEG nor NumPy': 1}
    shapes = {study.label: (read_stack(study).num_phases, read_stack(study)) for study in studies}
    assert {
        label: (phases, len(stack.slice_numbers)) for label, (phases, stack) in shapes.items()
    } == {
        'tree/dicom': (4, 3),
        'tree/nifti/cine.nii.gz': (4, 3),
        'tree/npy/cine.npy': (4, 3),
        'tree/png': (1, 3),
    }


@pytest.mark.parametrize('given', ['file', 'series', 'study', 'tree'])
def test_levels_of_dicom(tmp_path, given):
    """A file, a folder of one series, a study of folders, and a tree of studies."""
    tree = tmp_path / 'tree'
    for study in (1, 2):
        write_cine(tree / f'patient{study}' / 'series1', study=study)
        for number in (1, 2):
            write_dicom(
                tree / f'patient{study}' / 'series2' / f'{number}.dcm',
                f'{study}.2.{number}',
                pixels_of(truth(0, 0)),
                StudyInstanceUID=f'{UID_ROOT}.{study}',
                SeriesInstanceUID=f'{UID_ROOT}.{study}.2',
                InstanceNumber=number,
            )
    path = {
        'file': tree / 'patient1' / 'series1' / '1.dcm',
        'series': tree / 'patient1' / 'series1',
        'study': tree / 'patient1',
        'tree': tree,
    }[given]
    studies, _ = found_in(path)
    assert [(study.label, len(study.files)) for study in studies] == {
        'file': [(str(path), 1)],
        'series': [('series1', 12)],
        'study': [('patient1', 14)],
        'tree': [('tree/patient1', 14), ('tree/patient2', 14)],
    }[given]
    assert all(study.is_named == (given == 'file') for study in studies)


def test_many_studies_in_one_folder(tmp_path):
    for study in (1, 2):
        write_cine(tmp_path / f'part{study}', study=study)
    (tmp_path / 'all').mkdir()
    for path in [*tmp_path.glob('part1/*'), *tmp_path.glob('part2/*')]:
        path.rename(tmp_path / 'all' / f'{path.parent.name}_{path.name}')
    studies, _ = found_in(tmp_path / 'all')
    assert [len(study.files) for study in studies] == [12, 12]
    assert [study.files[0].name for study in studies] == ['part1_1.dcm', 'part2_1.dcm']


def test_a_study_in_folders_apart_is_told_not_split_silently(tmp_path):
    for folder, study in (('a', 1), ('b', 2), ('c', 1)):
        write_cine(tmp_path / folder, phases=1, study=study)
    studies, _ = found_in(tmp_path)
    assert [study.problem is None for study in studies] == [True, True, False]
    with pytest.raises(ValueError, match='has files in another folder, too.*below one folder'):
        read_stack(studies[2])


def test_label_maps_of_a_folder_are_no_images(tmp_path):
    import nibabel

    write_nifti(tmp_path / 'sa.nii.gz', truths())
    rng = np.random.default_rng(0)
    image = rng.integers(0, 1000, (8, 8, 2)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / 'noisy.nii.gz')
    nibabel.save(nibabel.Nifti1Image(truths()[0].T, np.eye(4)), tmp_path / 'seg.nii.gz')
    studies, skipped = found_in(tmp_path)
    assert [study.files[0].name for study in studies] == ['noisy.nii.gz', 'sa.nii.gz']
    assert skipped == {'NIfTI label maps': 1}
    assert len(found_in(tmp_path / 'seg.nii.gz')[0]) == 1  # what is named, is wanted


def test_pictures_of_different_sizes_are_different_stacks(tmp_path):
    for name, size in (('a', 20), ('b', 30), ('c', 20)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.arange(size**2).reshape(size, size) % 255)
    (tmp_path / 'd.png').write_bytes(b'\x89PNG\r\n\x1a\n damaged')
    studies, _ = found_in(tmp_path)
    assert [[path.name for path in study.files] for study in studies] == [
        ['a.png', 'c.png', 'd.png'],
        ['b.png'],
    ]
    assert '(30 x 30 pixels)' in studies[1].label


def test_pictures_beside_dicom_are_left_out(tmp_path):
    write_cine(tmp_path, phases=1)
    cv2.imwrite(str(tmp_path / 'preview.png'), np.zeros((9, 9), np.uint8))
    studies, skipped = found_in(tmp_path)
    assert [study.kind for study in studies] == ['dicom']
    assert skipped == {'pictures beside DICOM or NIfTI': 1}


def test_links(tmp_path):
    """Folders that are links count; loops end; the results are not looked into."""
    write_cine(tmp_path / 'data' / 'real', phases=1)
    root = tmp_path / 'root'
    root.mkdir()
    (root / 'linked').symlink_to(tmp_path / 'data')
    (tmp_path / 'data' / 'loop').symlink_to(root)
    (tmp_path / 'data' / 'self').symlink_to('self')
    write_cine(root / 'out', phases=1, study=5)
    studies, skipped = found_in(root, exclude=root / 'out')
    assert [study.label for study in studies] == ['root/linked/real']
    assert skipped == {'links to themselves': 1}


def test_ten_thousand_other_files_are_counted_fast(tmp_path):
    for number in range(10_000):
        (tmp_path / f'{number}.log').touch()
    begin = time.process_time()
    studies, skipped = found_in(tmp_path)
    assert not studies and skipped == {'neither DICOM, NIfTI, PNG, JPEG nor NumPy': 10_000}
    assert time.process_time() - begin < 10


def test_memory_does_not_grow_with_the_number_of_studies(tmp_path):
    write_cine(tmp_path / 'one', phases=1, slices=1)
    content = (tmp_path / 'one' / '1.dcm').read_bytes()
    old = f'{UID_ROOT}.77'.encode()

    def peak(count: int) -> int:
        root = tmp_path / f'tree{count}'
        for number in range(count):
            folder = root / f'{number:04d}'
            folder.mkdir(parents=True)
            for name in range(4):
                data = content.replace(old, old[:-2] + f'{number + 10}'.encode())
                (folder / f'{name}.dcm').write_bytes(data)
        tracemalloc.start()
        assert sum(1 for _ in find_studies([root], Counter())) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        shutil.rmtree(root)
        return peak

    peak(2)
    few, many = peak(5), peak(85)
    assert many < few + 100_000  # 85 headers would be more than 1 MB


@pytest.mark.parametrize('missing', ['nowhere', 'näher dran/x y'])
def test_no_such_input(tmp_path, missing):
    with pytest.raises(InputError, match=f'There is no file or folder .*{missing}'):
        found_in(tmp_path / missing)


def test_unreadable_headers_are_noted_with_their_study(tmp_path):
    write_cine(tmp_path, phases=1)
    (tmp_path / '9.dcm').write_bytes((tmp_path / '1.dcm').read_bytes()[:300])
    (study,), _ = found_in(tmp_path)
    assert [path.name for path in study.unreadable] == ['9.dcm'] and len(study.files) == 3
    assert read_stack(study).left_out == ('1 files: they cannot be read as DICOM',)
    for path in study.files:
        os.truncate(path, 200)
    (study,), _ = found_in(tmp_path)
    with pytest.raises(ValueError, match='none of 4 DICOM files can be read'):
        read_stack(study)
