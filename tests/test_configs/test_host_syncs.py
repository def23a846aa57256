"""No line of this package makes the host wait for the GPU in a step that is not logged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from small_configs import QuickRunner, scaled_down

import swin_ext
from host_reads import cuda_waits, host_reads
from toy_cmr import ToyCMR

PACKAGE = Path(swin_ext.__file__).parent
CONFIGS = PACKAGE.parent / 'configs'
# Reads what has come long since; and ops of mmcv on CPUs, which are others on CUDA.
APART = (PACKAGE / 'engine/host_copy.py', PACKAGE / 'mmcv_ext')
HOOKS = ('NonFiniteLossHook', 'HistoryHook', 'ProgressBarHook', 'PreemptionHook', 'GPUStatsHook')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'cmr'
    return {'CMRDataset': ToyCMR(root, num_images=4).root}


def watched_training(watch, data, work_dir, config, **changes) -> dict[str, set]:
    """What `watch` finds in the second and third of four iterations, and in the last, logged one.

    Iterations are without the loading of their data.
    """
    cfg = scaled_down(Config.fromfile(CONFIGS / config), data, work_dir)
    cfg.custom_hooks = [dict(type=hook) for hook in HOOKS]
    cfg.merge_from_dict({'train_dataloader.batch_size': 1, **changes})
    runner = QuickRunner.from_cfg(cfg)
    loop = runner.train_loop
    run_iter, found = loop.run_iter, dict(quiet=set(), logged=set())

    def watched(idx, batch):
        if not idx:
            return run_iter(idx, batch)
        with watch() as places:
            run_iter(idx, batch)
        found['logged' if idx + 1 == len(loop.dataloader) else 'quiet'].update(places)

    loop.run_iter = watched
    runner.train()
    assert runner.iter == 4
    return found


def of_package(places) -> list[str]:
    return listed(
        each
        for each in places
        if Path(each.file).is_relative_to(PACKAGE)
        and not any(Path(each.file).is_relative_to(apart) for apart in APART)
    )


def listed(places) -> list[str]:
    return sorted({f'{p.file}:{p.line} {p.function}: {p.what}' for p in places})


@pytest.mark.parametrize(
    'config, changes',
    [
        ('mask_rcnn_swin-nano_cmr.py', {}),
        (
            'mask_rcnn_swin-nano_cmr.py',
            {
                'sync_avg_factor': True,
                'optim_wrapper.optimizer.fused': False,
                'default_hooks.runtime_info.type': 'RuntimeInfoHook',
            },
        ),
        (
            'mask_rcnn/mask_rcnn_swin-nano_pixel-cmr.py',
            {'model.roi_head.mask_head.type': 'DeviceTargetMaskHead'},
        ),
    ],
)
def test_nothing_of_this_package_reads_from_the_device(config, changes, data, tmp_path):
    found = watched_training(host_reads, data, tmp_path, config, **changes)
    # MMDetection has to: how many anchors are positive, and which.
    assert any('random_sampler.py' in each.file for each in found['quiet'])
    assert not of_package(found['quiet'])
    # MMEngine's hook reads each loss, and its preprocessor has an index of channels.
    files = {Path(each.file).name for each in found['quiet']}
    assert ('message_hub.py' in files) == ('default_hooks.runtime_info.type' in changes)
    reads = {each.what for each in found['quiet'] if each.file.endswith('data_preprocessor.py')}
    assert not reads


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('config', ['mask_rcnn_swin-nano_cmr.py', 'mask_rcnn_swin-s_cmr.py'])
def test_nothing_of_this_package_waits_for_the_gpu(config, data, tmp_path):
    found = watched_training(cuda_waits, data, tmp_path, config)
    print('\n'.join(listed(found['quiet'])))
    assert not of_package(found['quiet'])


def write_by_mask(x):
    x[x > 1] = torch.zeros(2)


@pytest.mark.parametrize(
    'read, what',
    [
        (lambda x: x[0].item(), 'item'),
        (lambda x: bool(x[0]), '__bool__'),
        (lambda x: float(x[0]), '__float__'),
        (lambda x: x.tolist(), 'tolist'),
        (lambda x: x.numpy(), 'numpy'),
        (lambda x: x.cpu(), 'cpu'),
        (lambda x: x.to('cpu'), 'to'),
        (lambda x: x.nonzero(), 'nonzero'),
        (lambda x: torch.where(x > 1), 'nonzero'),
        (lambda x: x[x > 1], 'index'),
        (write_by_mask, 'index_put_'),
        (lambda x: x.unique(), 'unique'),
        (lambda x: torch.equal(x, x), 'equal'),
        (lambda x: torch.repeat_interleave(x.long()), 'repeat_interleave'),
        (lambda x: x.new_tensor([1.0]), 'new_tensor'),
    ],
)
def test_reads_are_found(read, what):
    x = torch.arange(4.0)
    with host_reads() as found:
        read(x)
    assert what in {each.what for each in found}
    assert {each.file for each in found} == {__file__}


def test_other_work_is_not_taken_for_a_read():
    x = torch.arange(4.0, requires_grad=True)
    with host_reads() as found:
        y = torch.where(x > 1, x, x.new_full((), 2.0))[torch.tensor([1, 2]).long()[:1]].sum()
        y.backward()
    assert {each.what for each in found} == {'tensor'}
