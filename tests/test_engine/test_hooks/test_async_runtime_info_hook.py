"""Figures that come late are those of upstream's hook wherever they are read."""

from __future__ import annotations

import pytest
import torch

from swin_ext.engine.hooks import AsyncRuntimeInfoHook
from swin_ext.engine.host_copy import HostCopy
from toy_noisy_training import MAX_ITERS, train

CLIPPED = dict(clip_grad=dict(max_norm=0.1))


def histories(hub) -> dict[str, list[float]]:
    return {
        name: buffer.data[0].tolist()
        for name, buffer in hub['log_scalars'].items()
        if 'time' not in name and 'device' not in name
    }


def run(folder, hook, **logger):
    train(
        folder,
        optim_wrapper=CLIPPED,
        default_hooks=dict(
            runtime_info=dict(type=hook), logger=dict(type='LoggerHook', interval=5, **logger)
        ),
    )
    saved = (
        torch.load(folder / f'iter_{i}.pth', weights_only=False) for i in range(1, MAX_ITERS + 1)
    )
    return [histories(each['message_hub']) for each in saved]


@pytest.mark.parametrize('comes', ['at once', 'never by itself', 'in turns'])
def test_histories_are_upstreams_in_every_checkpoint(tmp_path, comes, monkeypatch):
    expected = run(tmp_path / 'upstream', 'RuntimeInfoHook')
    asked = []

    def has_come(self):
        asked.append(self)
        return comes == 'at once' or comes == 'in turns' and len(asked) % 3 == 0

    monkeypatch.setattr(HostCopy, 'has_come', has_come)
    own = run(tmp_path / 'own', 'AsyncRuntimeInfoHook')
    assert asked
    assert {'train/loss', 'train/grad_norm', 'train/lr'} <= set(own[0])
    assert own == expected


def test_what_is_under_way_waits_for_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(HostCopy, 'has_come', lambda self: False)
    seen = []

    class Watching(AsyncRuntimeInfoHook):
        def after_train_iter(self, runner, *args, **kwargs):
            super().after_train_iter(runner, *args, **kwargs)
            seen.append(len(self._under_way))

    train(
        tmp_path,
        train_cfg=dict(val_interval=100),
        default_hooks=dict(
            runtime_info=Watching(),
            checkpoint=None,
            logger=dict(type='LoggerHook', interval=3, ignore_last=False),
        ),
    )
    # Epochs of 4 iterations: lines after the third and, as the last one, the fourth of each.
    assert seen == [1, 2, 0, 0] * 3
