"""The commands of the README, run as a user does: from another directory, in new processes.

The first training imports all that it needs; the others start in forks (see `forked_python`).
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS

from swin_ext.datasets import DatasetError
from toy_cmr import ToyCMR

CONFIGS = Path(__file__).parents[1] / 'configs'
NANO = CONFIGS / 'mask_rcnn_swin-nano_cmr.py'
FLAGSHIP = CONFIGS / 'mask_rcnn_swin-s_cmr.py'


def mim(python, command, config, *args, cwd, options=(), check=True, on_terminal=False):
    """Run a MIM command; return its exit status and output."""
    call = [python, '-m', 'mim', command, 'mmdet', str(config), *map(str, args)]
    call += ['--cfg-options', *options] if options else []
    return run(call, cwd, check, on_terminal)


def run(call, cwd, check=True, on_terminal=False):
    """Run a command; its output, with that to stderr, goes to a pipe or a terminal."""
    reading, writing = pty.openpty() if on_terminal else os.pipe()
    if on_terminal:  # a new one has no columns, in which no bar fits
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack('HHHH', 50, 400, 0, 0))
    env = dict(os.environ, OMP_NUM_THREADS='1')
    # Of pytest, whose process is no terminal; and wide enough for no line to be cut.
    env.update(COLUMNS='400', TERM='xterm')
    process = subprocess.Popen(call, cwd=cwd, env=env, stdout=writing, stderr=writing)
    os.close(writing)
    output = b''
    with contextlib.suppress(OSError), open(reading, 'rb', buffering=0) as file:
        while part := file.read(4096):  # a terminal that was closed ends with an OSError
            output += part
    done = subprocess.CompletedProcess(call, process.wait(), output.decode().replace('\r\n', '\n'))
    if check:
        assert done.returncode == 0, done.stdout[-3000:]
    return done


def log_file(work_dir) -> str:
    """The log file of the last run in a work directory."""
    return max(Path(work_dir).glob('2*/2*.log')).read_text()


def validation_figures(log: str) -> list[dict]:
    """The figures of each validation or test in a log as they are printed, by metric name."""
    lines = re.findall(r'Iter\((?:val|test)\) .*coco.*', log)
    return [dict(re.findall(r'((?:coco|cmr)/\w+): (-?[\d.]+|nan)', line)) for line in lines]


class Training:
    """Two epochs of three iterations on a toy set, validated after iterations 2, 4 and 6."""

    def __init__(self, root: Path):
        self.root = root
        self.data = ToyCMR(root / 'data', num_images=6)
        for image in self.data.content['images']:
            image['spacing_mm'] = [1.5, 1.5]  # as converted data have
        self.data.save()
        self.work_dir = root / 'work_dir'
        self.options = [
            f'data_root={self.data.root}',
            'max_epochs=2',
            'train_dataloader.batch_size=2',
            'train_cfg.val_begin=1',
            'train_cfg.val_interval=2',
            'randomness.seed=0',
            'default_hooks.checkpoint.interval=4',
            'default_hooks.logger.interval=1',
        ]
        train = (sys.executable, 'train', NANO, '--work-dir', self.work_dir)
        self.terminal = mim(*train, cwd=root, options=self.options).stdout
        self.log = log_file(self.work_dir)
        (self.best,) = self.work_dir.glob('best_coco_segm_mAP_iter_*.pth')


@pytest.fixture(scope='module')
def training(tmp_path_factory):
    return Training(tmp_path_factory.mktemp('training'))


def test_training_logs_saves_and_draws(training):
    assert len(re.findall(r'Iter\(train\)', training.log)) == 6
    assert len(validation_figures(training.log)) == 3
    assert (training.work_dir / 'iter_6.pth').exists()
    assert list(training.work_dir.glob('*/vis_data/events.out.tfevents.*'))
    checkpoint = torch.load(training.work_dir / 'iter_6.pth', weights_only=False)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('LV', 'Myo', 'RV')


def test_best_checkpoint_reproduces_its_validation_exactly(training, quick_python):
    iteration = int(re.search(r'iter_(\d+)', training.best.name)[1])
    folder = training.work_dir / 'test'
    # Without --work-dir, a test writes beside its checkpoint.
    terminal = mim(
        quick_python,
        'test',
        NANO,
        '--checkpoint',
        training.best,
        cwd=training.root,
        options=[*training.options[:1], f'test_evaluator.0.outfile_prefix={folder}/pred'],
    ).stdout
    assert not (training.root / 'work_dirs').exists()
    (figures,) = validation_figures(log_file(folder))
    assert figures == validation_figures(training.log)[iteration // 2 - 1]
    # 6 for boxes, 6 for masks and 4 per class; 4 for the mean of the classes and 6 per class
    assert sum('coco/' in key for key in figures) == 24 and len(figures) == 24 + 22
    assert float(figures['coco/segm_mAP']) > 0
    written = json.loads((folder / 'results.json').read_text())
    assert written.keys() == figures.keys()
    assert written['coco/segm_mAP'] == pytest.approx(float(figures['coco/segm_mAP']), abs=5.1e-5)
    assert (folder / 'results.md').read_text() in terminal
    assert len(json.loads((folder / 'pred.segm.json').read_text())) > 0
    assert (folder / 'cmr_slices.csv').exists() and (folder / 'cmr_boxplots.png').exists()


def test_resume_continues_from_the_last_checkpoint(training, quick_python):
    resumed = training.root / 'resumed'
    shutil.copytree(training.work_dir, resumed)
    (resumed / 'last_checkpoint').write_text(str(resumed / 'iter_4.pth'))
    terminal = mim(
        quick_python,
        'train',
        NANO,
        '--work-dir',
        resumed,
        '--resume',
        cwd=training.root,
        options=training.options,
        on_terminal=True,
    ).stdout
    log = log_file(resumed)
    assert [int(i) for i in re.findall(r'Iter\(train\) \[(\d)/6\]', log)] == [5, 6]
    assert [int(i) for i in re.findall(r'Iter\(train\) \[(\d)/6\]', terminal)] == [5, 6]
    check_terminal(terminal)
    # It begins with a validation, after 11 lines of MIM and of what it imports.
    lines = terminal.split('\n')
    ours = next(i for i, line in enumerate(lines) if 'images used' in line)
    progress = next(i for i, line in enumerate(lines) if 'Iter(' in line or '%|' in line)
    assert progress - ours < 25, terminal
    assert re.search(r'\rtrain: +\d+%\|', terminal)
    # That of iteration 4 came after its checkpoint, so it is made again.
    assert validation_figures(log) == validation_figures(training.log)[1:]


def check_terminal(output: str) -> None:
    """What a user sees of a training: how it begins, what it repeats, and how long its lines are.

    The lines of `pkg_resources` before that are of MIM and MMEngine, which are imported first.
    """
    lines = output.split('\n')
    start = next(i for i, line in enumerate(lines) if 'Training of mask_rcnn' in line)
    names = [line.split(':')[0].strip() for line in lines[start + 1 : start + 9]]
    assert names == ['train', 'val', 'start', 'classes', 'model', 'device', 'outputs', 'log']
    ours = '\n'.join(lines[start - 2 :])
    for noise in ('Warning', 'FileClient', 'HardDisk', 'Hooks will', 'Exp name', 'Parameter group'):
        assert noise not in ours
    shown = [line.split('\r')[-1] for line in lines[start:]]
    assert max(map(len, shown)) < 450
    assert '| Myo   |' in ours and 'coco/segm_LV_precision' not in ours


def test_the_terminal_of_a_training(training):
    check_terminal(training.terminal)
    lines = training.terminal.split('\n')
    first = next(i for i, line in enumerate(lines) if 'Iter(train)' in line)
    assert first < 25, training.terminal
    assert '%|' not in training.terminal and '\r' not in training.terminal  # bars are for terminals
    assert training.terminal.count('Validation after iteration') == 3
    for content in ('System environment:', 'custom_hooks = [', 'Hooks will', 'segm_LV_precision'):
        assert content in training.log


def test_a_wrong_path_is_what_the_terminal_ends_with(quick_python, tmp_path):
    """Run as MIM runs it, whose own traceback comes below."""
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    call = [quick_python, str(script), str(NANO), '--cfg-options', 'data_root=nowhere']
    done = run(call, tmp_path, check=False)
    assert done.returncode == 1
    end = done.stdout.rstrip().split('\n')[-8:]
    (place,) = (i for i, line in enumerate(end) if line.startswith('Error: '))
    assert 'nowhere/train.json does not exist' in end[place] and 'data_root' in end[place]
    assert 'Traceback' not in done.stdout
    assert 'Traceback' in log_file(tmp_path / 'work_dirs' / NANO.stem)


def build_runner(training, config=NANO, **options):
    """The runner that mmdet's tools build, in this process."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'data_root': str(training.data.root), 'log_level': 'ERROR', **options})
    cfg.work_dir = str(training.root / 'refused')
    cfg.launcher = 'none'
    cfg.experiment_name = f'refused_{time.monotonic_ns()}'
    return RUNNERS.build(cfg)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'num_classes': 2}, 'has num_classes=2, but the test data set has 3 classes'),
        (
            {'test_dataloader.dataset.metainfo': dict(classes=('RV', 'LV', 'Myo'))},
            r'trained on other classes .* or in another order',
        ),
        (
            {'model.backbone.arch.embed_dims': 48, 'model.neck.in_channels': [48, 96, 192, 384]},
            'checkpoint is of another architecture',
        ),
    ],
    ids=['number of classes', 'permuted classes', 'architecture'],
)
def test_model_that_does_not_fit_is_not_tested(training, options, message):
    runner = build_runner(training, load_from=str(training.best), **options)
    with pytest.raises((ValueError, RuntimeError), match=message):
        runner.test()
    assert not list(training.root.glob('refused/*/*.json'))  # no figures


def test_wrong_number_of_classes_is_refused_before_training(training):
    runner = build_runner(training, num_classes=7)
    with pytest.raises(ValueError, match='num_classes=7, but the train data set has 3 classes'):
        runner.train()
    assert not list(training.root.glob('refused/*.pth'))


def test_data_root_from_the_environment(training, monkeypatch):
    monkeypatch.setenv('CMR_DATA', '/from/the/environment')
    assert Config.fromfile(NANO).data_root == '/from/the/environment'
    with pytest.raises(DatasetError, match='/from/the/command/line/train.json does not exist'):
        build_runner(training, data_root='/from/the/command/line').train()


def test_flagship_takes_steps_on_a_cpu_from_scratch(training, quick_python):
    mim(
        quick_python,
        'train',
        FLAGSHIP,
        '--work-dir',
        training.root / 'flagship',
        cwd=training.root,
        options=training.options[:2]
        + [
            'load_from=None',
            'optim_wrapper.type=OptimWrapper',
            'max_epochs=1',
            'train_dataloader.batch_size=2',
            'default_hooks.logger.interval=1',
            'default_hooks.checkpoint.save_optimizer=False',  # 400 MB
            'train_dataloader.dataset.indices=4',
            'val_dataloader.dataset.indices=1',
            'train_dataloader.dataset.pipeline.2.scale=(96,96)',
            'val_dataloader.dataset.pipeline.1.scale=(96,96)',
        ],
    )
    log = log_file(training.root / 'flagship')
    losses = [float(loss) for loss in re.findall(r'  loss: ([\d.]+)', log)]
    assert len(losses) == 2 and losses[1] != losses[0]
    record = next((training.root / 'flagship').glob('*/vis_data/config.py')).read_text()
    assert 'frozen_stages=2' in record


def test_flagship_without_network_says_what_to_do(training):
    runner = build_runner(
        training,
        FLAGSHIP,
        **{
            'optim_wrapper.type': 'OptimWrapper',
            'load_from': 'http://127.0.0.1:9/mask_rcnn-b92c91f1.pth',
        },
    )
    with pytest.raises(RuntimeError, match='load_from=/path/to(?s:.*)load_from=None'):
        runner.train()


def test_malicious_checkpoint_runs_nothing(training, quick_python, tmp_path):
    marker = tmp_path / 'it_ran'

    class Payload:
        def __reduce__(self):
            return os.system, (f'touch {marker}',)

    checkpoint = torch.load(training.best, weights_only=False)
    checkpoint['meta']['payload'] = Payload()
    torch.save(checkpoint, tmp_path / 'malicious.pth')
    done = mim(
        quick_python,
        'test',
        NANO,
        '--checkpoint',
        tmp_path / 'malicious.pth',
        cwd=training.root,
        options=training.options[:1],
        check=False,
    )
    assert done.returncode != 0
    assert 'malicious.pth' in done.stdout and 'posix.system' in done.stdout
    assert not marker.exists()
    torch.load(tmp_path / 'malicious.pth', weights_only=False)
    assert marker.exists()  # the payload is a real one


def test_every_figure_of_the_log_is_in_scalars_json(training):
    path = min(training.work_dir.glob('2*/vis_data/scalars.json'))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record['step'] for record in records if 'coco/segm_mAP' in record] == [2, 4, 6]
