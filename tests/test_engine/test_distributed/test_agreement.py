"""Ranks of one process share a store: what differs between them is told to all."""

from __future__ import annotations

import json
import threading

import pytest
from mmengine.config import Config
from torch.distributed import HashStore

from swin_ext.engine.distributed import agreement
from swin_ext.engine.distributed.agreement import annotation_files, check_agreement, describe
from swin_ext.engine.errors import DisagreementError


def data(root, file='train.json'):
    dataset = dict(type='CMRDataset', data_root=str(root), ann_file=file)
    repeated = dict(type='RepeatDataset', times=2, dataset=dataset)
    return Config(dict(train_dataloader=dict(dataset=repeated)))


def errors_of(configs) -> list[str]:
    """What `check_agreement` raises in each of as many ranks as there are configs."""
    store, errors = HashStore(), [''] * len(configs)

    def run(rank):
        try:
            check_agreement(store, rank, len(configs), configs[rank])
        except DisagreementError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def of_rank_1(described: dict) -> HashStore:
    """A store with all that rank 1 says."""
    store = HashStore()
    store.set('swin_ext/agreement/1', json.dumps(described))
    store.set('swin_ext/agreement/1 has read', '1')
    return store


def test_annotation_files_are_joined_as_data_sets_do_it():
    config = dict(
        train=dict(type='A', ann_file='a.json', data_root='/data'),
        val=dict(type='A', ann_file='/b.json', data_root='/data'),
        both=[dict(type='B', datasets=[dict(type='A', ann_file='c.json')])],
        variable=dict(ann_file='d.json'),
    )
    assert sorted(annotation_files(config)) == ['/b.json', '/data/a.json', 'c.json']


def test_equal_ranks_agree(tmp_path):
    (tmp_path / 'train.json').write_text('{}')
    assert errors_of([data(tmp_path)] * 3) == [''] * 3


@pytest.mark.parametrize('first, second', [('{"a": 1}', '{"a": 2}'), ('{}', None), (None, '{}')])
def test_annotation_files_that_differ(tmp_path, monkeypatch, first, second):
    path, found = tmp_path / 'train.json', []
    for content in (first, second):  # as if each rank had a disk of its own
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        found.append(describe(data(tmp_path)))
    store = of_rank_1(found[1])
    monkeypatch.setattr(agreement, 'describe', lambda config: found[0])
    with pytest.raises(DisagreementError, match='different annotation files .*/train.json') as e:
        check_agreement(store, 0, 2, data(tmp_path))
    assert ('no such file' in str(e.value)) == (None in (first, second))


def test_versions_that_differ():
    config = Config({})
    store = of_rank_1(dict(describe(config), version='0.0.1', host='node2'))
    with pytest.raises(DisagreementError, match='on node2 and .* different versions .*: 0.0.1 and'):
        check_agreement(store, 0, 2, config)


def test_values_without_a_text_of_their_own_are_equal():
    configs = [Config(dict(hook=dict(type=lambda: None))) for _ in range(2)]
    assert errors_of(configs) == ['', '']
