"""Configs of the runs of an experiment: what a user's config becomes for one of them."""

from __future__ import annotations

import copy
import hashlib
import json
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction

from swin_ext.experiments.budget import Budget
from swin_ext.experiments.errors import ExperimentError
from swin_ext.utils.files import replacing_text

SPLITS = ('train', 'val', 'test')
NEVER = 10**9  # iteration, or epoch, of the first validation
PREDICTIONS = 'predictions'  # files of a test begin with it


def load_config(path: Path, options: Sequence[str] = ()) -> Config:
    """Read a config and merge what was given as `--cfg-options`.

    Raises:
        ExperimentError: If it does not train and test.
    """
    # What a config imports takes seconds, and only its run needs it.
    cfg = Config.fromfile(path, import_custom_modules=False)
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    cfg.merge_from_dict(
        parser.parse_args(['--cfg-options', *options] if options else []).cfg_options
    )
    missing = [
        name
        for name in ('model', 'train_dataloader', 'test_dataloader', 'test_evaluator', 'train_cfg')
        if not cfg.get(name)
    ]
    if missing:
        raise ExperimentError(f'{path}: has no {", ".join(missing)}, so it cannot train and test.')
    return cfg


def data_sets(cfg: Config, split: str) -> list[ConfigDict]:
    """Configs of the data sets of a split, those inside of wrappers."""
    return list(_unwrap((cfg.get(f'{split}_dataloader') or {}).get('dataset')))


def annotation_files(cfg: Config, splits: Sequence[str]) -> list[Path]:
    """Annotation files of splits, each once.

    Raises:
        ExperimentError: If a data set has none.
    """
    paths: dict[Path, None] = {}
    for split in splits:
        for dataset in data_sets(cfg, split):
            if not dataset.get('ann_file'):
                raise ExperimentError(
                    f'{cfg.filename}: a data set of {split}_dataloader '
                    f'({dataset.get("type")}) has no ann_file; folds and comparisons are made of '
                    'annotation files in COCO JSON.'
                )
            path = Path(dataset.ann_file)
            root = dataset.get('data_root') or cfg.get('data_root') or ''
            paths[path if path.is_absolute() else Path(root, path)] = None
    return list(paths)


def existing_files(cfg: Config, splits: Sequence[str]) -> list[Path]:
    """Like `annotation_files`.

    Raises:
        ExperimentError: If there is none, or one that does not exist.
    """
    paths = annotation_files(cfg, splits)
    for path in paths:
        if not path.is_file():
            raise ExperimentError(
                f'Annotation file {path.resolve()} does not exist. Set data_root by --cfg-options '
                'data_root=... or the environment variable CMR_DATA.'
            )
    if not paths:
        raise ExperimentError(f'{cfg.filename}: has no data set for {" or ".join(splits)}.')
    return paths


def use_fold(cfg: Config, train: Path, val: Path) -> None:
    """Let a config train on one annotation file, and validate and test on another.

    Raises:
        ExperimentError: If a split has several data sets, or the images of train and test lie in
            different folders.
    """
    places = set()
    for split in SPLITS:
        found = data_sets(cfg, split)
        if len(found) > 1:
            raise ExperimentError(
                f'{cfg.filename}: {split}_dataloader joins {len(found)} data sets; for folds, give '
                'a config with one.'
            )
        for dataset in found:
            prefix = dataset.get('data_prefix')
            places.add(json.dumps([dataset.get('data_root'), prefix], sort_keys=True))
            dataset.ann_file = str((train if split == 'train' else val).resolve())
            dataset.pop('indices', None)
            if split == 'train' and 'other_splits' in dataset:
                dataset.other_splits = [str(val.resolve())]
    if len(places) > 1:
        raise ExperimentError(
            f'{cfg.filename}: the data sets of train, val and test have different image folders '
            f'({"; ".join(sorted(places))}). For folds, all images must lie below one data_prefix.'
        )


def use_seed(cfg: Config, seed: int) -> None:
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def use_budget(cfg: Config, budget: Budget) -> None:
    """Let a config train for a budget, and validate at its end alone."""
    hook = dict(type='BudgetHook', **budget.of_hook())
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, param_scheduler=hook)
    cfg.train_cfg.update(val_begin=NEVER)
    cfg.train_cfg.pop('dynamic_intervals', None)
    if budget.clock == 'cpu':  # that of workers would not count
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
        cfg.train_dataloader.pop('prefetch_factor', None)


def keep_predictions(cfg: Config, folder: Path) -> None:
    """Let the test write what figures with confidence intervals are computed of.

    The config's own `CMRMetric` and `FastCocoMetric` stay as they are; one that lacks is added.
    """
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    types = [str(evaluator.get('type')).rpartition('.')[2] for evaluator in evaluators]
    if 'FastCocoMetric' not in types:
        evaluators.append(
            ConfigDict(type='FastCocoMetric', metric=['bbox', 'segm'], classwise=True)
        )
    if 'CMRMetric' not in types:
        evaluators.append(ConfigDict(type='CMRMetric'))
    for evaluator in evaluators:
        if str(evaluator.type).rpartition('.')[2] == 'FastCocoMetric':
            evaluator.outfile_prefix = str(folder.resolve() / PREDICTIONS)
    cfg.test_evaluator = evaluators
    keep_results(cfg)


def keep_results(cfg: Config) -> None:
    """Let the test write `results.json`."""
    hooks = cfg.get('custom_hooks') or []
    if not any(str(hook.get('type')).endswith('ResultsTableHook') for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type='ResultsTableHook')]


def fingerprint(cfg: Config) -> str:
    """Digest of all that a config says."""
    content = json.dumps(cfg.to_dict(), default=repr, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def write_config(cfg: Config, path: Path) -> None:
    with replacing_text(path) as file:
        file.write(cfg.pretty_text)


def copy_of(cfg: Config) -> Config:
    return copy.deepcopy(cfg)


def _unwrap(dataset: ConfigDict | None) -> Iterator[ConfigDict]:
    if dataset is None:
        return
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for child in inner:
        yield from _unwrap(child)
