"""Trainings and tests on a real Slurm of two nodes, preempted, cancelled and killed.

Ranks start in forks (see `forked_python`), which end as the tasks of Slurm do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS

import swin_ext.registration  # noqa: F401
from slurm_cluster import skip_without_slurm, slurm, slurm_cluster
from toy_cmr import ToyCMR
from toy_slurm_run import NUM_ITERATIONS, PAUSE, PROGRESS

ROOT = Path(__file__).parents[1]
NANO = ROOT / 'configs' / 'mask_rcnn_swin-nano_cmr.py'
README = (ROOT / 'README.md').read_text()
COMMAND = 'mim train mmdet CONFIG --launcher slurm --partition gpu --gpus 2 --gpus-per-node 1'
MOST_SECONDS = 240


@pytest.fixture(scope='module')
def cluster(request):
    skip_without_slurm()
    env = dict(
        GLOO_SOCKET_IFNAME='lo',
        OMP_NUM_THREADS='1',
        PYTHON=request.getfixturevalue('quick_python'),
        PYTHONPATH=os.pathsep.join(
            filter(None, [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH')])
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        with slurm_cluster() as base:
            yield base


def wait_for(condition, seconds=MOST_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, slurm('scontrol', 'show', 'job')
        time.sleep(0.1)


# mmdet by MIM, with two ranks


class Training:
    """The README's command on seven images, of which the ranks validate four and three."""

    def __init__(self, root: Path):
        self.root = root
        self.data = ToyCMR(root / 'data', num_images=7)
        self.work_dir = root / 'work_dir'
        self.options = [f'data_root={self.data.root}', 'randomness.seed=0', 'image_scale=(64,64)']
        self.output = mim(
            COMMAND.replace('CONFIG', str(NANO)),
            f'--work-dir {self.work_dir} --cfg-options max_epochs=2 train_cfg.val_begin=1 '
            'train_cfg.val_interval=2 train_dataloader.batch_size=2',
            self.options,
            root,
        )


def mim(command: str, arguments: str, options: list[str], cwd: Path) -> str:
    call = [os.environ['PYTHON'], '-m', *command.split(), *arguments.split(), *options]
    done = subprocess.run(
        call, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def training(cluster, tmp_path_factory):
    return Training(tmp_path_factory.mktemp('mim'))


def test_the_command_of_the_readme_trains_on_two_nodes(training):
    assert COMMAND in README
    (log,) = training.work_dir.glob('2*/2*.log')
    text = log.read_text()
    assert '2 processes' in text
    assert len(re.findall(r'Iter\(val\) .*coco/segm_mAP', text)) == 2
    assert len(list(training.work_dir.glob('best_coco_segm_mAP_iter_*.pth'))) == 1
    assert (training.work_dir / 'iter_4.pth').exists()


def test_a_test_on_two_nodes_has_the_figures_of_one_process(training):
    (best,) = training.work_dir.glob('best_*.pth')
    folder = training.root / 'test'
    mim(
        'mim test mmdet',
        f'{NANO} --checkpoint {best} --launcher slurm --partition gpu --gpus 2 --gpus-per-node 1 '
        f'--work-dir {folder} --cfg-options test_dataloader.batch_size=2',
        training.options,
        training.root,
    )
    figures = json.loads((folder / 'results.json').read_text())

    cfg = Config.fromfile(NANO)
    cfg.merge_from_dict({'data_root': str(training.data.root), 'image_scale': (64, 64)})
    cfg.test_dataloader.batch_size = 2
    cfg.merge_from_dict(
        dict(
            work_dir=str(training.root / 'single'),
            load_from=str(best),
            launcher='none',
            log_level='ERROR',
            experiment_name='single',
        )
    )
    RUNNERS.build(cfg).test()
    single = json.loads((training.root / 'single' / 'results.json').read_text())
    assert sum(bool(value) for value in figures.values()) > 3
    assert figures.keys() == single.keys()
    for name, value in single.items():
        assert figures[name] == value, name  # null is what was not measured


# A small model, which each job trains by the script that users submit with


def submit(work_dir: Path, *options: str) -> str:
    """Submit the training; returns the number of the job."""
    done = subprocess.run(
        [ROOT / 'tools' / 'slurm_train.sh', '-p', 'gpu', '-g', '0', '-c', '1', '-t', '10']
        + ['--work-dir', work_dir, *options, 'toy'],
        env=dict(os.environ, SCRIPT=str(ROOT / 'tests' / 'toy_slurm_run.py')),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def iterations(work_dir: Path) -> list[int]:
    path = work_dir / PROGRESS
    return list(map(int, path.read_text().split())) if path.exists() else []


def state_of(job: str) -> str:
    return ''.join(re.findall(r'JobState=(\S+)', slurm('scontrol', 'show', 'job', job)))


def wait_for_iteration(work_dir: Path, number: int) -> None:
    wait_for(lambda: iterations(work_dir)[-1:] >= [number])


def wait_for_end(work_dir: Path, job: str) -> None:
    wait_for(lambda: state_of(job) in ('COMPLETED', 'FAILED', 'CANCELLED'))
    assert state_of(job) == 'COMPLETED', logs(work_dir)


def logs(work_dir: Path) -> str:
    return ''.join(path.read_text() for path in sorted(work_dir.rglob('*.log')))


def assert_same_weights(work_dir: Path, expected: Path) -> None:
    final, whole = (
        torch.load(folder / f'iter_{NUM_ITERATIONS}.pth', weights_only=False)
        for folder in (work_dir, expected)
    )
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in whole[part].items():
            assert torch.equal(final[part][name], value), (part, name)
    for index, state in whole['optimizer']['state'].items():
        for name, value in state.items():
            assert torch.equal(final['optimizer']['state'][index][name], value)


@pytest.fixture(scope='module')
def uninterrupted(cluster, tmp_path_factory):
    """Two ranks on one node, by srun alone."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    script = ROOT / 'tests' / 'toy_slurm_run.py'
    call = ['srun', '-p', 'gpu', '-N', '1', '-n', '2', os.environ['PYTHON'], script, 'toy']
    done = subprocess.run(
        [*call, '--launcher', 'slurm', '--work-dir', work_dir],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert iterations(work_dir) == list(range(1, NUM_ITERATIONS + 1))
    return work_dir


def test_a_preempted_job_is_requeued_and_loses_no_iteration(uninterrupted, tmp_path):
    (tmp_path / PAUSE).touch()
    job = submit(tmp_path, '-N', '2')
    wait_for_iteration(tmp_path, 20)
    urgent = slurm(
        'sbatch', '-p', 'urgent', '-N2', '--exclusive', '-o', '/dev/null', '--wrap', 'true'
    )
    wait_for(lambda: state_of(urgent.split()[-1]) == 'COMPLETED')
    wait_for_end(tmp_path, job)
    assert iterations(tmp_path) == list(range(1, NUM_ITERATIONS + 1))
    text = logs(tmp_path)
    assert 'SIGTERM: training ends after iteration' in text
    assert f'Slurm starts job {job} again by itself.' in text
    assert_same_weights(tmp_path, uninterrupted)


def test_cancelled_killed_and_lost_jobs_come_to_the_same_weights(uninterrupted, tmp_path):
    """Beside each other, for most of the time goes by with waiting."""
    folders = {name: tmp_path / name for name in ('cancelled', 'killed', 'limit', 'node')}
    for folder in folders.values():
        folder.mkdir()
        (folder / PAUSE).touch()
    jobs = {name: submit(folder, '-N', '2') for name, folder in folders.items()}
    for folder in folders.values():
        wait_for_iteration(folder, 20)
    slurm('scancel', jobs['cancelled'])
    slurm('scancel', '--signal=KILL', f'{jobs["killed"]}.0')
    slurm('scancel', '--signal=USR2', jobs['limit'])  # as at the end of --time
    for name in ('cancelled', 'killed'):
        wait_for(lambda name=name: state_of(jobs[name]) in ('CANCELLED', 'FAILED'))
    wait_for(lambda: 'is requeued and goes on' in logs(folders['limit']))
    slurm('scontrol', 'update', 'NodeName=127.0.0.2', 'State=DOWN', 'Reason=test')
    wait_for(lambda: state_of(jobs['node']) != 'RUNNING')
    for folder in folders.values():
        (folder / PAUSE).unlink()
    wait_for(lambda: state_of(jobs['node']) == 'PENDING')
    slurm('scontrol', 'update', 'NodeName=127.0.0.2', 'State=RESUME')

    assert 'cancelled or out of time, so it is not requeued' in logs(folders['cancelled'])
    for name in ('cancelled', 'killed'):  # the same command again
        jobs[name] = submit(folders[name], '-N', '2')
    for name, folder in folders.items():
        wait_for_end(folder, jobs[name])
        assert_same_weights(folder, uninterrupted)
        if name in ('cancelled', 'limit'):
            assert iterations(folder) == list(range(1, NUM_ITERATIONS + 1)), name


# The scripts that submit


def dry_run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [ROOT / 'tools' / script, '--dry-run', *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_job(job: str, **env: str) -> list[str]:
    """Run the script of a dry run with an `srun` that prints its arguments."""
    script = job.partition("<<'JOB'\n")[2].rpartition('JOB\n')[0]
    start = 'srun() { printf \'%s\\n\' "$@"; }\n'
    env = dict(os.environ, SLURM_CPUS_PER_TASK='1', **env)
    return subprocess.check_output(['bash', '-c', start + script], env=env, text=True).splitlines()


def test_dry_run_of_an_array(tmp_path):
    job = dry_run(
        'slurm_train.sh',
        *('-p', 'a', '-N', '2', '-g', '4', '--array', '0-4', '--sbatch', '--mem=0'),
        *('--work-dir', f'{tmp_path}/it is', 'c.py', '--cfg-options', 'r=fold_%a', 'x=(1, 2)'),
    )
    options = job.splitlines()[0]
    for option in ('--partition=a --nodes=2 --ntasks-per-node=4', '--gres=gpu:4', '--array=0-4'):
        assert option in options
    assert '--requeue --signal=USR2@90' in options and '--mem=0 <<' in options
    call = run_job(job, SLURM_ARRAY_TASK_ID='3')
    end = ['c.py', '--cfg-options', 'r=fold_3', 'x=(1, 2)', '--launcher', 'slurm', '--work-dir']
    assert call[-8:] == [*end, f'{tmp_path}/it is/3']
    assert f'--output={tmp_path}/it is/slurm/%j_%t.log' in call
    (tmp_path / 'it is' / '3').mkdir(parents=True)
    (tmp_path / 'it is' / '3' / 'last_checkpoint').touch()
    assert run_job(job, SLURM_ARRAY_TASK_ID='3')[-1] == '--resume'
    assert '--resume' not in run_job(job, SLURM_ARRAY_TASK_ID='2')


def test_dry_run_of_a_test():
    call = run_job(dry_run('slurm_test.sh', '-p', 'a', 'configs/c.py', 'best.pth'))
    assert call[-7].endswith('tools/test.py')
    assert call[-6:] == 'configs/c.py best.pth --launcher slurm --work-dir work_dirs/c/test'.split()


@pytest.mark.parametrize('arguments', [['c.py'], ['-p', 'a'], ['--nods', '2', '-p', 'a', 'c.py']])
def test_scripts_refuse_what_they_do_not_know(arguments):
    done = subprocess.run(
        [ROOT / 'tools' / 'slurm_train.sh', *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2 and 'tools/slurm_train.sh -p PARTITION' in done.stderr
