import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from swin_ext.config import ConfigError
from swin_ext.engine import SwinExtRunner


@pytest.fixture
def resolved(monkeypatch):
    """Run `from_cfg` up to the point where upstream's would build the runner."""

    def resolve(**cfg):
        cfg = dict(runner_type='SwinExtRunner', work_dir='.', default_scope='mmdet', **cfg)
        cfg = Config(dict(dict(model=dict(type='RetinaNet')), **cfg))
        monkeypatch.setattr(Runner, 'from_cfg', classmethod(lambda cls, cfg: cfg))
        return RUNNERS.build(cfg)

    return resolve


def test_is_built_from_runner_type():
    assert RUNNERS.get('SwinExtRunner') is SwinExtRunner


def test_data_root_reaches_data_sets_that_have_none(resolved):
    cfg = resolved(
        data_root='new/root',
        train_dataloader=dict(
            dataset=dict(
                type='RepeatDataset',
                dataset=dict(
                    type='ConcatDataset',
                    datasets=[
                        dict(type='CMRDataset'),
                        dict(type='CMRDataset', data_root='own/root'),
                    ],
                ),
            )
        ),
        val_dataloader=dict(dataset=dict(type='CMRDataset')),
        test_dataloader=None,
    )
    inner = cfg.train_dataloader.dataset.dataset
    assert [dataset.data_root for dataset in inner.datasets] == ['new/root', 'own/root']
    assert 'data_root' not in inner
    assert cfg.val_dataloader.dataset.data_root == 'new/root'


def test_num_classes_reaches_every_head(resolved):
    box_head, mask_head = 'Shared2FCBBoxHead', 'FCNMaskHead'
    model = dict(
        type='CascadeRCNN',
        roi_head=dict(
            type='CascadeRoIHead',
            bbox_head=[dict(type=box_head, num_classes=80), dict(type=box_head, num_classes=80)],
            mask_head=dict(type=mask_head, num_classes=80),
        ),
    )
    model = resolved(num_classes=2, model=model).model
    assert [head.num_classes for head in model.roi_head.bbox_head] == [2, 2]
    assert model.roi_head.mask_head.num_classes == 2


def test_max_epochs_reaches_loop_and_scheduler(resolved):
    cfg = resolved(
        max_epochs=7,
        train_cfg=dict(max_epochs=12),
        param_scheduler=[
            dict(type='OneCycleLR', total_steps=12, convert_to_iter_based=True),
            dict(type='OneCycleLR', total_steps=500, by_epoch=False),
        ],
    )
    assert cfg.train_cfg.max_epochs == 7
    assert [scheduler.total_steps for scheduler in cfg.param_scheduler] == [7, 500]


def test_configs_without_these_keys_stay_as_they_are(resolved):
    cfg = resolved(
        train_dataloader=dict(dataset=dict(type='CocoDataset')), train_cfg=dict(max_epochs=12)
    )
    assert 'data_root' not in cfg.train_dataloader.dataset
    assert cfg.train_cfg.max_epochs == 12


def test_misspelt_key_is_refused_before_anything_is_built(resolved):
    with pytest.raises(ConfigError, match='max_epoch: .* Did you mean max_epochs'):
        resolved(max_epoch=3)
