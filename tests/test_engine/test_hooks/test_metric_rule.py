import pytest
from mmengine.hooks import EarlyStoppingHook

from swin_ext.engine.errors import SettingError
from swin_ext.engine.hooks import BestCheckpointHook, ResumableEarlyStoppingHook
from swin_ext.engine.hooks.metric_rule import gain, rule_of

GREATER = ['coco/segm_mAP', 'coco/bbox_mAP_50', 'cmr/LV_dice', 'cmr/dice_3d', 'cmr/jaccard', 'mIoU']
LESS = ['cmr/hd95', 'cmr/LV_hd95_3d', 'cmr/assd', 'loss', 'val/loss_mask']
UNKNOWN = ['cmr/LV_EF_bias_percent', 'cmr/LV_EDV_loa_upper_ml', 'toy/value', 'accuracy_loss']


@pytest.mark.parametrize(
    'metric, rule',
    [*((metric, 'greater') for metric in GREATER), *((metric, 'less') for metric in LESS)],
)
@pytest.mark.parametrize('hook', [BestCheckpointHook, ResumableEarlyStoppingHook])
def test_hooks_tell_the_rule_from_the_name(hook, metric, rule):
    assert rule_of(metric) == hook(metric).rule == rule
    other = 'less' if rule == 'greater' else 'greater'
    assert rule_of(metric, other) == hook(metric, rule=other).rule == other


@pytest.mark.parametrize('metric', UNKNOWN)
@pytest.mark.parametrize('hook', [BestCheckpointHook, ResumableEarlyStoppingHook])
def test_a_name_that_does_not_tell_is_refused(hook, metric):
    with pytest.raises(SettingError, match=f"'{metric}' does not tell .* Set rule='greater' or"):
        hook(metric)
    assert hook(metric, rule='less').rule == 'less'


@pytest.mark.parametrize(
    'metric', ['acc', 'top', 'AR@', 'auc', 'precision', 'mAP', 'mDice', 'mIoU', 'aAcc', 'loss']
)
def test_names_that_upstream_knows_have_its_rule(metric):
    assert rule_of(metric) == EarlyStoppingHook(monitor=metric).rule


@pytest.mark.parametrize('rule, expected', [('greater', 0.5), ('less', -0.5)])
def test_gain(rule, expected):
    assert gain(rule, 1.0, 0.5) == expected
