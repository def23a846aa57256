import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from swin_ext.benchmarks import hooks_loop
from swin_ext.benchmarks.hooks import main
from swin_ext.engine import SwinExtRunner
from swin_ext.engine.hooks import GPUStatsHook

NANO = Path(__file__).parents[2] / 'configs/mask_rcnn_swin-nano_cmr.py'


def run(toy_cmr, *args):
    return main(
        [
            str(NANO),
            '--blocks',
            '2',
            '--block',
            '2',
            *args,
            '--cfg-options',
            f'data_root={toy_cmr.root}',
            'train_dataloader.batch_size=1',
            'log_level=ERROR',
            'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        ]
    )


def test_hooks_of_the_config_are_measured(toy_cmr, tmp_path, capsys):
    out = tmp_path / 'new' / 'hooks.json'
    report = run(toy_cmr, '--json', str(out))
    assert len(report['with_s']) == len(report['without_s']) == 4
    medians = {mode: sorted(report[f'{mode}_s'])[1:3] for mode in ('with', 'without')}
    share = 1 + report['thread_share']
    assert report['ratio'] == pytest.approx(share * sum(medians['with']) / sum(medians['without']))
    assert {'GPUStatsHook', 'HistoryHook', 'ProgressBarHook'} <= report['hooks_us'].keys()
    assert not {'LoggerHook', 'IterTimerHook'} & report['hooks_us'].keys()
    assert all(len(seconds) == 4 for seconds in report['hooks_s'].values())
    assert json.loads(out.read_text())['ratio'] == report['ratio']
    assert f'ratio of the medians {report["ratio"]:.4f}' in capsys.readouterr().out


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass by what a test says; a step takes one."""
    now = [0.0]

    def spend(seconds, *args, **kwargs):
        now[0] += seconds

    train_step = hooks_loop.AlternatingLoop.run_iter

    def run_iter(loop, *args):
        train_step(loop, *args)
        spend(1)

    stand_in = SimpleNamespace(**{**vars(time), 'perf_counter': lambda: now[0]})
    monkeypatch.setattr(hooks_loop, 'time', stand_in)
    monkeypatch.setattr(hooks_loop.AlternatingLoop, 'run_iter', run_iter)
    return spend


def test_a_slow_checkpoint_is_found(toy_cmr, monkeypatch, capsys, clock):
    monkeypatch.setattr(SwinExtRunner, 'save_checkpoint', partial(clock, 0.25))
    report = run(toy_cmr)
    assert {name: len(seconds) for name, seconds in report['saving_s'].items()} == dict(
        nothing=2, copy=2, checkpoint=2
    )
    assert report['saving_ms'] == dict(nothing=[0, 1000], copy=[0, 1000], checkpoint=[250, 1250])
    assert '| checkpoint | 250.0 | 1250.0 |' in capsys.readouterr().out


def test_a_slow_hook_is_found(toy_cmr, monkeypatch, capsys, clock):
    monkeypatch.setattr(GPUStatsHook, 'after_train_iter', partial(clock, 0.25))
    monkeypatch.setattr(GPUStatsHook, '_report', lambda *args: None)
    report = run(toy_cmr)
    assert report['with_s'] == [1.25] * 4 and report['without_s'] == [1] * 4
    assert report['hooks_us'].pop('GPUStatsHook') == dict(median=250_000, mean=250_000)
    assert all(hook == dict(median=0, mean=0) for hook in report['hooks_us'].values())
    assert report['hooks_percent'] == 20
    assert 'add more than 2% to the median step' in capsys.readouterr().err


def test_help_imports_neither_torch_nor_mmengine():
    tool = NANO.parents[1] / 'tools/benchmark_hooks.py'
    program = f"""
import runpy, sys
sys.argv = ['benchmark_hooks.py', '--help']
try:
    runpy.run_path({str(tool)!r}, run_name='__main__')
except SystemExit as done:
    assert done.code == 0
assert not {{'torch', 'mmengine', 'mmdet'}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '--cfg-options' in done.stdout
