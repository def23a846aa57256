"""Indexes hold what the file holds, are made once, and are not trusted blindly."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_coco_reading import change, sound_content, write

from swin_ext.coco import index as index_module
from swin_ext.coco.index import SUFFIX, build_table, index_places, read_table
from swin_ext.coco.reading import read_coco_file
from swin_ext.coco.table import COLUMNS


@pytest.fixture
def path(tmp_path):
    (tmp_path / 'data').mkdir()
    return write(tmp_path / 'data', sound_content())


def content_of(table):
    lists = dict(images=list(table.images), annotations=list(table.annotations))
    return dict(table.content(), **lists)


def read(path, index='', **kwargs):
    """From an index beside the file, however small that is."""
    return read_table(path, index=index or str(path.parent), max_decoded=10, **kwargs)


CHANGES = [
    ('images.0.width', 64),
    ('images.0.width', '64'),
    ('images.0.spacing_mm', math.nan),
    ('images.0.more', dict(a=[None, 2**70, '\ud800'])),
    ('annotations.0.bbox', [math.nan] * 4),
    ('annotations.0.area', None),
    ('annotations.1.category_id', 7),
    ('annotations.1.score', 1.0),
    ('annotations', []),
]


@pytest.mark.parametrize('place, value', CHANGES)
@pytest.mark.parametrize('needs_masks', [False, True])
def test_a_table_holds_what_the_reader_returns(path, place, value, needs_masks):
    content = sound_content()
    change(place, value)(content)
    write(path.parent, content)
    expected = read_coco_file(path, needs_masks=needs_masks)
    for table in (
        build_table(path, needs_masks),
        read(path, needs_masks=needs_masks),  # makes the index
        read(path, needs_masks=needs_masks),
    ):
        # As text, in which NaN is itself, and 1 and 1.0 differ.
        assert json.dumps(content_of(table), sort_keys=True) == json.dumps(
            expected.content, sort_keys=True
        )
        assert table.head['problems'] == list(expected.problems)
        assert table.head['repairs'] == dict(expected.repairs)


def test_annotations_are_found_by_image(path):
    content = sound_content()
    content['annotations'] = content['annotations'][::-1] + [
        dict(content['annotations'][0], id=i, image_id=1 + i % 3) for i in range(10, 40)
    ]
    write(path.parent, content)
    table = build_table(path, False)
    for row, image in enumerate(content['images']):
        expected = [a['id'] for a in content['annotations'] if a['image_id'] == image['id']]
        assert [table.annotations[int(i)]['id'] for i in table.annotations_of(row)] == expected


def test_the_file_is_one_of_safetensors(path):
    table = read(path)
    arrays = load_file(path.with_name(path.name + SUFFIX))
    assert arrays.keys() == COLUMNS.keys()
    for name, array in arrays.items():
        assert array.dtype == COLUMNS[name] and np.array_equal(array, table.columns[name])


def test_arrays_are_mapped_and_pickled_as_a_path(path):
    table = read(path)
    mapped = [c for c in table.columns.values() if isinstance(c.base, np.memmap)]
    assert len(mapped) == len(COLUMNS) and not any(c.flags.writeable for c in mapped)
    other = pickle.loads(pickle.dumps(table))
    assert content_of(other) == content_of(table)
    assert len(pickle.dumps(table)) < 1000 and copy.deepcopy(table) is table


def damage(offset):
    def apply(index, path):
        text = bytearray(index.read_bytes())
        text[offset] ^= 1
        index.write_bytes(text)

    return apply


def other_file(index, path):
    content = sound_content()
    content['images'][0]['file_name'] = 'slice_9.png'
    write(path.parent, content)


MADE_ANEW = [
    (damage(-1), 'damaged'),
    (damage(3), 'damaged'),
    (damage(30), 'damaged'),
    (lambda index, path: index.write_bytes(index.read_bytes()[:-7]), 'damaged'),
    (lambda index, path: index.write_bytes(b''), 'damaged'),
    (lambda index, path: index.write_bytes(b'\xff' * 100), 'damaged'),
    (other_file, 'the annotation file is another'),
    (lambda index, path: index.unlink(), 'there is none yet'),
]


@pytest.mark.parametrize('spoil, reason', MADE_ANEW)
def test_what_is_not_of_the_file_is_made_anew_with_a_line(path, spoil, reason, monkeypatch):
    lines = []
    monkeypatch.setattr(index_module, '_log', lines.append)
    read(path)
    index = path.with_name(path.name + SUFFIX)
    read(path)
    assert len(lines) == 1 and 'there is none yet' in lines[0]
    spoil(index, path)
    assert content_of(read(path)) == read_coco_file(path).content
    assert len(lines) == 2 and reason in lines[1] and str(index) in lines[1]
    read(path)
    assert len(lines) == 2


def test_another_version_makes_its_own(path, monkeypatch):
    read(path)
    monkeypatch.setattr(index_module, '__version__', '999.0')
    lines = []
    monkeypatch.setattr(index_module, '_log', lines.append)
    read(path)
    assert 'the one there is of swin_ext' in lines[0]


@pytest.mark.parametrize('writable', ['cache', 'nothing'])
def test_folders_that_cannot_be_written(path, monkeypatch, writable, tmp_path):
    monkeypatch.setattr(index_module, 'MIN_BYTES', 0)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    lines = []
    monkeypatch.setattr(index_module, '_log', lines.append)
    closed = {path.parent} if writable == 'cache' else {path.parent, tmp_path / 'cache/swin_ext'}
    # Permissions do not hold for root, as which tests may run.
    may = os.access
    monkeypatch.setattr(
        os, 'access', lambda folder, mode: folder not in closed and may(folder, mode)
    )
    for _ in range(2):
        assert content_of(read_table(path)) == sound_content()
    _, cached = index_places(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if writable == 'cache':
        assert cached.exists() and len(lines) == 1 and str(cached) in lines[0]
    else:
        assert len(lines) == 2 and 'is read without an index' in lines[0]


def test_small_files_get_none(path, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for index in (True, False):
        read_table(path, index=index)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert not (tmp_path / 'cache').exists()


def test_masks_may_be_needed(path):
    """The fourth annotation has none; the file is the same."""
    for needs_masks in (False, True, True, False):
        assert len(read(path, needs_masks=needs_masks).annotations) == (3 if needs_masks else 4)


def read_together(path, start):
    lines = []
    index_module._log = lines.append
    start.wait()
    table = read(path)
    return lines, json.dumps(content_of(table))


def test_processes_that_come_together_make_one(path):
    content = sound_content()
    content['annotations'] = [dict(content['annotations'][0], id=i) for i in range(2000)]
    write(path.parent, content)
    context = multiprocessing.get_context('fork')
    with context.Manager() as manager, context.Pool(3) as pool:
        start = manager.Barrier(3)
        found = pool.starmap(read_together, [(path, start)] * 3)
    assert sum(len(lines) for lines, _ in found) == 1
    assert len({text for _, text in found}) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + SUFFIX]


def test_an_index_left_half_written_is_no_hindrance(path):
    read(path)
    index = path.with_name(path.name + SUFFIX)
    shutil.copy(index, Path(f'{index}.other-1.saving'))
    index.unlink()
    assert content_of(read(path)) == sound_content()
