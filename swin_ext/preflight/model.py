"""The model of a config: whether it can be built and trained, and whether its files are there."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from swin_ext.engine.hooks.backbone_freeze_hook import (
    check_schedule,
    frozen_by_patterns,
    frozen_by_stages,
)
from swin_ext.preflight.report import Report
from swin_ext.utils.hashes import hash_in_name, sha256_of

FILE_KEYS = ('checkpoint', 'load_from', 'pretrained')  # whose values are weight files
# Servers that refuse HEAD still answered: the address exists or the download would say more.
HEAD_REFUSED = (403, 405, 501)


def check_model(cfg: Config, classes: tuple[str, ...] | None, report: Report) -> None:
    """Build the model without weights and compare it with the classes and what is frozen."""
    for where, backbone in _dicts_with(cfg.model, 'frozen_stages', 'model'):
        stages = backbone.get('num_stages', 4)
        if not -1 <= backbone['frozen_stages'] <= stages:
            report.add(
                'error',
                where,
                f'frozen_stages={backbone["frozen_stages"]} must lie '
                f'between -1 (none) and {stages} (all).',
            )
            return
    try:
        model = MODELS.build(cfg.model)
    except Exception as error:
        report.add('error', 'model', f'it cannot be built: {error}')
        return
    for name, module in model.named_modules():
        found = getattr(module, 'num_classes', None)
        # An RPN tells objects from background, whatever their class.
        if classes and found not in (None, len(classes)) and not name.endswith('rpn_head'):
            report.add(
                'error',
                f'model.{name}',
                f'num_classes={found}, but there are '
                f'{len(classes)} classes: {list(classes)}. Set num_classes={len(classes)}.',
            )
    check_frozen(model, cfg.get('custom_hooks') or [], report)


def check_frozen(model: nn.Module, hooks: list[dict], report: Report) -> None:
    """Find out whether something is left to train, also at each step of a freezing schedule."""
    names = {name for name, _ in model.named_parameters()}
    steps = {'': {name for name, p in model.named_parameters() if not p.requires_grad}}
    for hook in hooks:
        if hook['type'] != 'BackboneFreezeHook':
            continue
        schedule = hook.get('schedule')
        try:
            check_schedule(schedule)
            frozen = (frozen_by_patterns if 'patterns' in schedule[0] else frozen_by_stages)(
                model, schedule
            )
        except ValueError as error:
            report.add('error', 'custom_hooks', str(error))
            continue
        steps = {f' from {entry["at"]} on': part for entry, part in zip(schedule, frozen)}
    for when, frozen in steps.items():
        if frozen >= names:
            report.add('error', 'model', f'all parameters are frozen{when}.')
        sizes = dict((name, p.numel()) for name, p in model.named_parameters())
        total, fixed = sum(sizes.values()), sum(sizes[name] for name in frozen)
        print(f'model: {total / 1e6:.1f} M parameters, {fixed / total:.0%} frozen{when}')


def check_files(cfg: Config, timeout: float, report: Report) -> None:
    """Find weight files that are not there."""
    locations = {}
    for where, part in [('load_from', cfg), *_dicts_with(cfg.get('model') or {}, None, 'model')]:
        for key in FILE_KEYS:
            value = part.get(key)
            if isinstance(value, str):
                locations[value] = where if where == key else f'{where}.{key}'
    for location, where in locations.items():
        problem = find_file_problem(location, timeout)
        if problem:
            report.add('error', where, f'{location} {problem}')


def find_file_problem(location: str, timeout: float) -> str | None:
    """Say why a weight file, local or at an http(s) address, could not be loaded, if so.

    Other addresses, such as torchvision://resnet50, are not looked at.
    """
    parts = urllib.parse.urlsplit(location)
    if '://' not in location:
        path = Path(location).expanduser()
        if not path.is_file():
            return f'does not exist (from {Path.cwd()}).'
        return 'is empty (0 bytes).' if not path.stat().st_size else None
    if parts.scheme not in ('http', 'https'):
        return None
    name = Path(urllib.parse.unquote(parts.path)).name
    cached, digest = Path(torch.hub.get_dir()) / 'checkpoints' / name, hash_in_name(name)
    if cached.is_file():
        damaged = digest and not sha256_of(cached).startswith(digest)
        return f'is damaged where it was saved: delete {cached}.' if damaged else None
    try:
        urllib.request.urlopen(
            urllib.request.Request(location, method='HEAD'), timeout=timeout
        ).close()
    except urllib.error.HTTPError as error:
        if error.code not in HEAD_REFUSED:
            return f'is not there: the server answered {error.code} {error.reason}.'
    except (OSError, ValueError) as error:
        return (
            f'cannot be reached: {getattr(error, "reason", error)}. Download it where there '
            f'is a connection and save it as {cached}.'
        )
    return None


def _dicts_with(part, key: str | None, where: str) -> Iterator[tuple[str, dict]]:
    """Yield place and content of each dict in a config that has a key (or any, for None)."""
    if isinstance(part, dict):
        if key is None or key in part:
            yield where, part
        for name, value in part.items():
            yield from _dicts_with(value, key, f'{where}.{name}')
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from _dicts_with(value, key, f'{where}[{index}]')
