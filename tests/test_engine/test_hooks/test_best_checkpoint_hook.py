import hashlib
import re
import shutil

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from swin_ext.checkpoint.safe_reading import load_checkpoint_file
from swin_ext.engine.hooks.best_checkpoint_hook import names_of_figures
from swin_ext.engine.hooks.metric_rule import rule_of
from swin_ext.utils.hashes import hash_in_name
from toy_training import ToyMetric, make_runner

NAN = float('nan')


def train(work_dir, scores, *hooks, top_k=1, metric='toy/mAP', rule=None, **kwargs):
    """Train 5 iterations for each score, which the validation after them gives."""
    key = metric.split('/', 1)[1]
    runner = make_runner(
        work_dir,
        metric=ToyMetric([{} if score is None else {key: score} for score in scores]),
        hooks=[dict(type='BestCheckpointHook', metric=metric, top_k=top_k, rule=rule), *hooks],
        max_epochs=len(scores) // 2,
        **kwargs,
    )
    runner.train()
    return runner


def best(folder):
    """Iterations of the best checkpoints in a folder."""
    return sorted(
        int(re.search(r'iter_(\d+).pth$', path.name)[1]) for path in folder.glob('best_*.pth')
    )


def inference(folder):
    return sorted(
        int(re.search(r'iter_(\d+)-', path.name)[1]) for path in folder.glob('inference_*.pth')
    )


@pytest.mark.parametrize(
    'scores, top_k, expected',
    [
        ([0.1, 0.2, 0.3, 0.25], 1, [15]),
        ([0.1, 0.2, 0.3, 0.25], 2, [15, 20]),
        ([0.1, 0.2, 0.3, 0.25], 9, [5, 10, 15, 20]),
        ([0.3, 0.3, 0.3, 0.3], 1, [5]),  # equals do not displace
        ([0.3, 0.1, 0.3, 0.3], 2, [5, 15]),
        ([NAN, 0.2, NAN, 0.1], 1, [10]),
        ([0.2, NAN, np.inf, -np.inf], 2, [5]),
        ([np.float64(0.2), np.float32(0.4), 0, -1], 1, [10]),
        ([NAN, NAN, None, NAN], 1, []),
        ([None, 0.2, 0.1, None], 3, [10, 15]),
    ],
)
def test_top_k(tmp_path, scores, top_k, expected):
    train(tmp_path, scores, top_k=top_k)
    assert best(tmp_path) == expected
    ranked = [
        5 * (i + 1)
        for i in np.argsort(
            [-s if s is not None and np.isfinite(s) else np.inf for s in scores], kind='stable'
        )
    ]
    assert inference(tmp_path) == (ranked[:1] if expected else [])
    assert not list(tmp_path.glob('*.saving'))


@pytest.mark.parametrize(
    'metric, rule, expected',
    [
        ('toy/mAP', None, [15]),
        ('toy/loss', None, [5]),
        ('toy/hd95_mm_LV', None, [5]),
        ('toy/dice_LV', None, [15]),
        ('toy/anything', 'less', [5]),
        ('toy/loss', 'greater', [15]),
    ],
)
def test_rule(tmp_path, metric, rule, expected):
    train(tmp_path, [0.1, 0.2, 0.3, 0.25], metric=metric, rule=rule)
    assert best(tmp_path) == expected
    name = metric.replace('/', '_')
    assert (tmp_path / f'best_{name}_iter_{expected[0]}.pth').exists()


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(metric='toy/anything'), "does not tell .* Set rule='greater' or rule='less'"),
        (dict(metric='toy/accuracy_loss'), 'does not tell'),
        (dict(rule='more'), "rule must be .* not 'more'"),
        (dict(top_k=0), 'top_k must be at least 1, not 0'),
    ],
)
def test_wrong_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_runner(tmp_path, hooks=[dict(type='BestCheckpointHook', **kwargs)])


def test_coco_metrics_are_better_when_greater():
    assert rule_of('coco/segm_mAP') == rule_of('coco/bbox_mAP_50') == 'greater'


# What is in the files


def test_best_checkpoint_resumes_exactly(tmp_path):
    """The best one, after a validation between two periodic checkpoints, is the newest state."""
    whole = train(tmp_path / 'whole', [0.1, 0.2, 0.3, 0.4])
    train(
        tmp_path / 'cut',
        [0.1, 0.2],
        checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=100, save_last=False),
    )
    path = tmp_path / 'cut/best_toy_mAP_iter_10.pth'
    assert (tmp_path / 'cut/last_checkpoint').read_text() == str(path)
    checkpoint = load_checkpoint_file(path)
    assert {'optimizer', 'param_schedulers', 'message_hub'} <= set(checkpoint)
    assert (checkpoint['meta']['epoch'], checkpoint['meta']['iter']) == (0, 10)
    resumed = train(tmp_path / 'cut', [0.1, 0.2, 0.3, 0.4], resume=True)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(ours, theirs)
    assert best(tmp_path / 'cut') == best(tmp_path / 'whole') == [20]


@pytest.mark.parametrize('ema', [False, True])
def test_inference_file(tmp_path, ema):
    validated = {}

    class Remember(Hook):
        """What the validation used, before EMAHook takes its weights back."""

        priority = 'VERY_HIGH'

        def after_val_epoch(self, runner, metrics=None):
            validated[runner.iter] = {
                key: value.clone() for key, value in runner.model.state_dict().items()
            }

    train(tmp_path, [0.1, 0.4, 0.2, 0.3], Remember(), *[dict(type='EMAHook', momentum=0.1)] * ema)
    (path,) = tmp_path.glob('inference_toy_mAP_iter_10-*.pth')
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(hash_in_name(path.name))
    content = load_checkpoint_file(path)
    assert set(content) == {'state_dict', 'meta'}
    assert content['meta']['dataset_meta'] == dict(classes=('LV', 'Myo'))
    assert content['meta']['figures'] == {'toy/mAP': 0.4}
    assert content['state_dict'].keys() == validated[10].keys()
    for key, value in content['state_dict'].items():
        assert torch.equal(value, validated[10][key])
    full = load_checkpoint_file(tmp_path / 'best_toy_mAP_iter_10.pth')
    weight = 'layers.0.weight'
    if ema:  # the weights which training goes on with are others, and are there
        assert not torch.equal(
            full['ema_state_dict'][f'module.{weight}'], full['state_dict'][weight]
        )
    runner = make_runner(tmp_path / 'test', load_from=str(path))
    runner.val()


# Unknown metrics


class TellingMetric(ToyMetric):
    def metric_names(self):
        return ['toy/mAP', 'toy/loss']


class CountIterations(Hook):
    count = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.count += 1


@pytest.mark.parametrize('metric, num_iterations', [(TellingMetric, 0), (ToyMetric, 5)])
def test_an_unknown_metric_is_refused_as_soon_as_it_can_be_known(tmp_path, metric, num_iterations):
    counter = CountIterations()
    runner = make_runner(
        tmp_path,
        metric=metric([dict(mAP=0.1, loss=1.0)]),
        hooks=[dict(type='BestCheckpointHook', metric='toy/map', rule='greater'), counter],
    )
    with pytest.raises(ValueError, match=r"metric='toy/map'.* one of \['toy/loss', 'toy/mAP'\]"):
        runner.train()
    assert counter.count == num_iterations


def test_a_known_metric_may_be_absent_from_one_validation(tmp_path):
    runner = make_runner(
        tmp_path,
        metric=TellingMetric([dict(loss=1.0), {}, dict(mAP=0.2), dict(loss=1.0)]),
        hooks=[dict(type='BestCheckpointHook', metric='toy/mAP')],
    )
    runner.train()
    assert best(tmp_path) == [15]


def test_without_validation(tmp_path):
    runner = make_runner(tmp_path, hooks=[dict(type='BestCheckpointHook')])
    runner._val_loop = None
    with pytest.raises(ValueError, match='needs a validation: set val_dataloader'):
        runner.train()


def test_another_runner(tmp_path):
    hooks = [dict(type='BestCheckpointHook', metric='toy/loss')]
    runner = make_runner(
        tmp_path,
        hooks=hooks,
        runner_type=Runner,
        checkpoint=dict(type='CheckpointHook', interval=1),
    )
    with pytest.raises(ValueError, match="needs a SwinExtRunner.* runner_type='SwinExtRunner'"):
        runner.train()


@pytest.mark.parametrize(
    'options',
    [
        dict(metric='segm'),
        dict(metric=['bbox', 'segm'], classwise=True),
        dict(metric='bbox', metric_items=['mAP', 'AR@100']),
        dict(metric='bbox', prefix='val/set'),
        dict(metric='proposal'),
        dict(metric='proposal_fast', proposal_nums=(1, 10, 100)),
        dict(metric='segm', format_only=True),
    ],
    ids=lambda options: '-'.join(map(str, options.values())),
)
def test_names_of_coco_metric_are_those_of_its_results(toy_cmr, tmp_path, options):
    """The oracle is mmdet's own evaluation of one made-up detection per image."""
    metric = CocoMetric(
        ann_file=str(toy_cmr.json_path), outfile_prefix=str(tmp_path / 'out'), **options
    )
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(classes=('LV', 'Myo', 'RV'))
    names = names_of_figures(evaluator)
    for img_id in metric._coco_api.get_img_ids():
        masks = torch.zeros(1, 64, 64, dtype=torch.bool)
        masks[:, 10:20, 10:20] = True
        pred = dict(
            bboxes=torch.tensor([[10.0, 10.0, 20.0, 20.0]]),
            scores=torch.ones(1),
            labels=torch.zeros(1, dtype=torch.long),
            masks=masks,
        )
        evaluator.process([dict(img_id=img_id, ori_shape=(64, 64), pred_instances=pred)])
    results = evaluator.evaluate(len(metric.results))
    assert sorted(names) == sorted(results)


def test_names_are_unknown_where_an_evaluator_renames_them():
    class OtherEvaluator(Evaluator):
        pass

    assert names_of_figures(OtherEvaluator([TellingMetric()])) is None
    assert names_of_figures(Evaluator([TellingMetric(), ToyMetric()])) is None
    assert names_of_figures(Evaluator([TellingMetric()])) == ['toy/mAP', 'toy/loss']


# Resuming


@pytest.mark.parametrize(
    'top_k, later, expected',
    [
        (1, [0.2, 0.3], [5]),
        (1, [0.5, 0.3], [15]),
        (2, [0.3, 0.5], [5, 20]),
        (2, [0.1, 0.1], [5, 10]),
    ],
)
def test_a_resumed_run_goes_on_with_the_ranking(tmp_path, top_k, later, expected):
    train(tmp_path, [0.4, 0.2], top_k=top_k)
    train(tmp_path, [0.4, 0.2, *later], top_k=top_k, resume=True)
    assert best(tmp_path) == expected


def test_a_run_resumed_in_another_work_dir_leaves_the_original_alone(tmp_path):
    original, other = tmp_path / 'original', tmp_path / 'other'
    train(original, [0.3, 0.2], top_k=2)
    before = {path.name: path.read_bytes() for path in original.glob('*.pth')}
    options = dict(top_k=2, resume=True)
    train(other, [0.3, 0.2, 0.25, 0.1], load_from=str(original / 'iter_10.pth'), **options)
    assert best(other) == [15]
    assert inference(other) == [5]  # made of the original's, which is still the best
    train(other, [0.3, 0.2, 0.25, 0.1, 0.5, 0.6], **options)
    assert best(other) == [25, 30]
    assert {path.name: path.read_bytes() for path in original.glob('*.pth')} == before


def test_a_copied_work_dir_goes_on_by_itself(tmp_path):
    original, copied = tmp_path / 'original', tmp_path / 'copied'
    train(original, [0.3, 0.2])
    shutil.copytree(original, copied)
    train(copied, [0.3, 0.2, 0.5, 0.1], resume=True)
    assert (best(original), best(copied)) == ([5], [15])
    moved = copied.rename(tmp_path / 'moved')
    train(moved, [0.3, 0.2, 0.5, 0.1, 0.6, 0.1], resume=True)
    assert best(moved) == [25]


def test_a_best_checkpoint_that_is_gone_no_longer_counts(tmp_path):
    train(tmp_path, [0.4, 0.2])
    (tmp_path / 'best_toy_mAP_iter_5.pth').unlink()
    train(tmp_path, [0.4, 0.2, 0.1, 0.3], resume=True)
    assert best(tmp_path) == [20]


def test_the_best_of_a_later_time_than_the_resumed_checkpoint_is_kept(tmp_path):
    """As after a kill, or where the newest checkpoints are damaged."""
    train(
        tmp_path,
        [0.1, 0.2, 0.5, 0.4],
        checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=8),
    )
    path = tmp_path / 'best_toy_mAP_iter_15.pth'
    written = path.read_bytes()
    options = dict(resume=True, load_from=str(tmp_path / 'iter_8.pth'))
    train(tmp_path, [0.1, 0.3, 0.5, 0.2], **options)
    assert best(tmp_path) == [15] and path.read_bytes() == written
    train(tmp_path, [0.1, 0.3, 0.2, 0.6], **options)
    assert best(tmp_path) == [20]


def test_what_a_killed_run_had_still_to_delete_is_deleted_by_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr('swin_ext.engine.hooks.BestCheckpointHook._remove', lambda *_: None)
        train(tmp_path, [0.1, 0.2])
    assert best(tmp_path) == [5, 10]
    train(tmp_path, [0.1, 0.2, 0.1, 0.1], resume=True)
    assert best(tmp_path) == [10]


def test_the_checkpoint_that_last_checkpoint_names_is_not_deleted(tmp_path):
    train(tmp_path, [0.1, 0.2, 0.3, 0.4], top_k=4)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'best_toy_mAP_iter_10.pth'))
    hook = dict(type='BestCheckpointHook', metric='toy/mAP')
    checkpoint = dict(type='AtomicCheckpointHook', by_epoch=False, interval=100, save_last=False)
    runner = make_runner(
        tmp_path,
        hooks=[hook],
        metric=ToyMetric([dict(mAP=0.1)] * 4),
        checkpoint=checkpoint,
        resume=True,
    )
    runner.train()
    assert best(tmp_path) == [10, 20]


def test_a_new_training_in_an_old_work_dir_says_so(tmp_path, monkeypatch):
    train(tmp_path, [0.4, 0.2])
    runner = make_runner(
        tmp_path,
        hooks=[dict(type='BestCheckpointHook', metric='toy/mAP')],
        metric=ToyMetric([dict(mAP=0.1)] * 4),
    )
    warnings = []
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    runner.train()
    assert any('best_toy_mAP_iter_5.pth' in str(warning) for warning in warnings)


def test_two_metrics_at_once(tmp_path):
    runner = make_runner(
        tmp_path,
        metric=ToyMetric(
            [dict(mAP=m, loss=v) for m, v in [(0.1, 3.0), (0.3, 2.0), (0.2, 1.0), (0.2, 4.0)]]
        ),
        hooks=[
            dict(type='BestCheckpointHook', metric='toy/mAP'),
            dict(type='BestCheckpointHook', metric='toy/loss'),
        ],
    )
    runner.train()
    assert sorted(path.name for path in tmp_path.glob('best_*.pth')) == [
        'best_toy_loss_iter_15.pth',
        'best_toy_mAP_iter_10.pth',
    ]
    assert inference(tmp_path) == [10, 15]


def test_validation_alone_saves_nothing(tmp_path):
    runner = train(tmp_path / 'a', [0.1, 0.2])
    (path,) = (tmp_path / 'a').glob('best_*.pth')
    runner = make_runner(
        tmp_path / 'b',
        metric=ToyMetric([dict(mAP=0.9)]),
        load_from=str(path),
        hooks=[dict(type='BestCheckpointHook', metric='toy/mAP')],
    )
    runner.val()
    assert not list(tmp_path.glob('b/*.pth'))
