import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from swin_ext.visualization import plot_curves as module
from swin_ext.visualization.curves import series
from toy_log_lines import train_line, val_line


@pytest.fixture(scope='module')
def plot_curves(load_tool):
    return SimpleNamespace(**{**vars(module), 'main': load_tool('plot_curves').main})


def write_run(work_dir, stamp, lines, tail=''):
    folder = work_dir / stamp / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines) + tail)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, mode):
        return dict(loss_mask=(self.weight * x).mean()) if mode == 'loss' else [x]


class Metric(BaseMetric):
    default_prefix = 'coco'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(segm_mAP=0.25)


@pytest.fixture
def runner_globals(monkeypatch):
    """A runner makes its logger, scope ... the current ones of the process: undo that after."""
    for holder in (DefaultScope, MessageHub, MMLogger, Visualizer):
        monkeypatch.setattr(holder, '_instance_dict', holder._instance_dict.copy())


@pytest.mark.usefixtures('runner_globals')
@pytest.mark.parametrize(
    'train_cfg, by_epoch, map_at',
    [
        (dict(by_epoch=True, max_epochs=3), True, [4, 8, 12]),
        (dict(by_epoch=False, max_iters=12, val_interval=3), False, [3, 6, 9, 12]),
    ],
)
def test_reads_the_log_of_a_runner(plot_curves, tmp_path, train_cfg, by_epoch, map_at):
    """4 iterations an epoch, logged every 2nd: validations show up where they took place."""
    loader = dict(
        dataset=torch.arange(4.0)[:, None],
        batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    Runner(
        Model(),
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.125)),
        val_dataloader=loader,
        val_evaluator=[Metric()],
        val_cfg=dict(),
        experiment_name=f'curves_{by_epoch}',
        log_processor=dict(by_epoch=by_epoch),
        log_level='ERROR',
        default_hooks=dict(
            checkpoint=None,
            logger=dict(type='LoggerHook', interval=2, log_metric_by_epoch=by_epoch),
        ),
    ).train()
    records = plot_curves.read_work_dir(tmp_path)
    assert series(records, 'lr') == ([2, 4, 6, 8, 10, 12], [0.125] * 6)
    assert series(records, 'coco/segm_mAP') == (map_at, [0.25] * len(map_at))


def test_a_resumed_run_replaces_what_was_lost(plot_curves, tmp_path):
    write_run(
        tmp_path,
        '20250101_120000',
        [
            *(train_line(step, loss=1.0) for step in (10, 20)),
            val_line(1, segm=0.1),
            *(train_line(step, loss=1.0) for step in (30, 40)),
            val_line(2, segm=0.2),
            train_line(50, loss=1.0),
        ],
    )
    write_run(
        tmp_path,
        '20250102_120000',
        [train_line(30, loss=2.0), train_line(40, loss=2.0), val_line(2, segm=0.3)],
    )
    records = plot_curves.read_work_dir(tmp_path)
    assert series(records, 'loss') == ([10, 20, 30, 40], [1.0, 1.0, 2.0, 2.0])
    assert series(records, 'coco/segm_mAP') == ([20, 40], [0.1, 0.3])


def test_a_fresh_run_replaces_the_earlier_one(plot_curves, tmp_path):
    write_run(tmp_path, '20250101_120000', [train_line(step, loss=1.0) for step in (10, 20, 30)])
    write_run(tmp_path, '20250103_120000', [val_line(0)])  # a run that only validated
    write_run(tmp_path, '20250102_120000', [train_line(10, loss=2.0)])
    assert series(plot_curves.read_work_dir(tmp_path), 'loss') == ([10], [2.0])


def test_a_last_line_cut_short_is_reported(plot_curves, tmp_path, capsys):
    write_run(tmp_path, 'run', [train_line(10), train_line(20)], tail='{"loss": 1.')
    records = plot_curves.read_work_dir(tmp_path)
    assert [record['step'] for record in records] == [10, 20]
    assert 'scalars.json, line 3: cut short, skipped' in capsys.readouterr().err


@pytest.mark.parametrize(
    'line, message',
    [
        ('{"loss": 1.', r'scalars\.json, line 2: not JSON'),
        ('[1]', r'scalars\.json, line 2: no JSON object with a step'),
        ('{"loss": 1.0}', r'scalars\.json, line 2: no JSON object with a step'),
    ],
)
def test_a_line_that_is_no_log(plot_curves, tmp_path, line, message):
    write_run(tmp_path, 'run', [train_line(10)], tail=f'{line}\n{json.dumps(train_line(20))}\n')
    with pytest.raises(ValueError, match=message):
        plot_curves.read_work_dir(tmp_path)


def test_no_log(plot_curves, tmp_path, capsys):
    for folder, message in (
        (tmp_path / 'none', 'none is not a folder'),
        (tmp_path, '0 files match */vis_data/scalars.json'),
    ):
        with pytest.raises(SystemExit) as error:
            plot_curves.main([str(folder)])
        assert error.value.code == 2
        assert message in ' '.join(capsys.readouterr().err.split())
    write_run(tmp_path, 'run', [val_line(0)])
    with pytest.raises(FileNotFoundError, match='1 files match .*none with a training line'):
        plot_curves.read_work_dir(tmp_path)


@pytest.mark.parametrize('with_validation', [True, False])
def test_writes_a_picture(plot_curves, tmp_path, with_validation):
    write_run(tmp_path, 'run', [train_line(10), train_line(20), *[val_line(1)] * with_validation])
    plot_curves.main([str(tmp_path)])
    plot_curves.main([str(tmp_path), '--out', str(tmp_path / 'new' / 'a.png')])
    image = cv2.imread(str(tmp_path / 'curves.png'))
    assert np.array_equal(image, cv2.imread(str(tmp_path / 'new' / 'a.png')))
    assert image.shape[0] > 500 and image.shape[1] > 500
    # The colours of the box and mask mAP, as BGR.
    for colour in ((0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5)):
        assert np.all(image == colour, axis=-1).any() == with_validation
