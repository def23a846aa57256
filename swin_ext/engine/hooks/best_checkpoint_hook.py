"""Keeps the best checkpoints of a training, and makes a file for inference of the best one."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.checkpoint.model_file import inference_meta
from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.checkpoint.writer import LAST_CHECKPOINT, replacing, write_last_checkpoint
from swin_ext.engine.errors import SettingError
from swin_ext.engine.hooks.metric_rule import rule_of
from swin_ext.engine.runner import require_writer
from swin_ext.utils.ranks import on_main_process


@HOOKS.register_module()
class BestCheckpointHook(Hook):
    """Keep the checkpoints of the `top_k` best validations.

    They are named `best_<metric>_iter_<iteration>.pth`, hold all that is needed to resume, and
    `last_checkpoint` names them while they are the newest. The ranking is part of every checkpoint:
    a resumed run goes on with it. Files are deleted in the run's own work dir alone; one that was
    resumed in another work dir leaves those of the original in place. Where `EMAHook` is in use,
    the `state_dict` is that of the averaged weights, which were validated.

    When training ends, `inference_<metric>_iter_<iteration>-<hash>.pth` is made of the best one:
    its weights, classes, preprocessing, figures and config without the state of the training, see
    `checkpoint.model_file`. The hash is the beginning of the file's SHA-256, as `torch.hub` checks
    it.

    Args:
        metric: Key of the validation's figures.
        top_k: Number of checkpoints to keep.
        rule: 'greater' or 'less', whichever values are better; by default told from the name.

    Raises:
        SettingError: If `rule` is needed and absent; at the start of training, if there is no
            validation, its metrics tell their names (`metric_names()`, mmdet's `CocoMetric`) and
            `metric` is not among them; else after the first validation.
    """

    # After the schedulers of LOW priority have seen the validation, whose state is saved here.
    priority = 80

    def __init__(self, metric: str = 'coco/segm_mAP', top_k: int = 1, rule: str | None = None):
        if top_k < 1:
            raise SettingError(f'top_k must be at least 1, not {top_k}.')
        self.metric = metric
        self.top_k = top_k
        self.rule = rule_of(metric, rule)
        self._file_name = re.sub(r'[^\w.@-]', '_', metric)
        self._hub_key = f'best_checkpoints_{metric}'
        self._ranking: list[dict] | None = None  # None: this is no training

    def before_train(self, runner: Runner) -> None:
        require_writer(runner, self)
        if runner.val_loop is None:
            raise SettingError(
                'BestCheckpointHook needs a validation: set val_dataloader, '
                'val_evaluator and val_cfg, or remove the hook.'
            )
        names = names_of_figures(runner.val_loop.evaluator)
        if names is not None:
            self._check_name([*names, *getattr(runner.val_loop, 'figures', ())])
        self._work_dir = Path(runner.work_dir)
        restored = on_main_process(self._restored, runner)
        self._ranking, self._outdated = restored[: self.top_k], restored[self.top_k :]
        if self._ranking:
            runner.logger.info(f'Best checkpoint so far: {self._described(self._ranking[0])}.')
        self._store(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self._ranking is None:
            return
        if not metrics:
            runner.logger.warning('The validation has no figures: no best checkpoint is chosen.')
            return
        if names_of_figures(runner.val_loop.evaluator) is None:
            self._check_name(metrics)
        score = metrics.get(self.metric)
        if score is None or not math.isfinite(score):
            runner.logger.warning(
                f'{self.metric} is {score} at iteration {runner.iter}, which is never the best.'
            )
            return
        name = f'best_{self._file_name}_iter_{runner.iter}.pth'
        figures = {
            key: float(value)
            for key, value in metrics.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        new = dict(file=name, score=float(score), iter=runner.iter, figures=figures)
        # A file of this name is there if a resumed run comes to this iteration again.
        ranking = self._sorted(self._ranking + [new])
        ranking = [
            entry
            for i, entry in enumerate(ranking)
            if entry['file'] not in [better['file'] for better in ranking[:i]]
        ]
        if not any(entry is new for entry in ranking[: self.top_k]):
            return
        own = [path.name for path in on_main_process(self._own_files)]
        self._outdated = [
            entry
            for entry in self._outdated + ranking[self.top_k :]
            if entry['file'] in own and entry['file'] != name
        ]
        self._ranking = ranking[: self.top_k]
        self._store(runner)
        path = str(self._work_dir / name)
        runner.message_hub.update_info('last_ckpt', path)
        on_main_process(self._save, runner, path)
        place = '' if new is ranking[0] else f' ({ranking.index(new) + 1}. of {self.top_k})'
        runner.logger.info(f'Best checkpoint{place}: {self._described(new)}.')

    def _save(self, runner: Runner, path: str) -> None:
        runner.save_checkpoint(
            runner.work_dir,
            os.path.basename(path),
            meta=dict(epoch=runner.epoch, iter=runner.iter),
            by_epoch=False,
        )
        runner.checkpoint_writer.then(write_last_checkpoint, runner.work_dir, path)
        runner.checkpoint_writer.then(self._remove, list(self._outdated))

    def after_train(self, runner: Runner) -> None:
        on_main_process(self._finish, runner)

    def _finish(self, runner: Runner) -> None:
        runner.checkpoint_writer.then(self._remove, list(self._outdated))
        runner.checkpoint_writer.flush()
        if not self._ranking:
            runner.logger.warning(
                f'No validation had a finite {self.metric}: there is no best checkpoint.'
            )
        else:
            path = write_inference_file(
                self._work_dir / self._ranking[0]['file'],
                self._work_dir,
                f'inference_{self._file_name}_iter_{self._ranking[0]["iter"]}',
                # A ranking of version 0.2.0 has the score alone.
                self._ranking[0].get('figures') or {self.metric: self._ranking[0]['score']},
            )
            runner.logger.info(f'For inference: {path} ({path.stat().st_size / 2**20:.1f} MiB).')

    def after_run(self, runner: Runner) -> None:
        self._ranking = None

    def _check_name(self, names: Sequence[str]) -> None:
        if self.metric not in names:
            raise SettingError(
                f"BestCheckpointHook(metric='{self.metric}'): the validation has no such figure. "
                f'Choose one of {sorted(names)}.'
            )

    def _sorted(self, entries: list[dict]) -> list[dict]:
        """Best first; of equal ones the earlier first."""
        sign = -1 if self.rule == 'greater' else 1
        return sorted(entries, key=lambda entry: (sign * entry['score'], entry['iter']))

    def _described(self, entry: dict) -> str:
        return f'{self.metric} {entry["score"]:.4f} at iteration {entry["iter"]}, {entry["file"]}'

    def _store(self, runner: Runner) -> None:
        # Those to be deleted are listed, too: should this run be killed before they are, the one
        # that resumes does it.
        runner.message_hub.update_info(self._hub_key, self._ranking + self._outdated)

    def _restored(self, runner: Runner) -> list[dict]:
        """The ranking of the checkpoint that was resumed, with the files that are still there."""
        beside = {path.name for path in self._own_files()}
        resumed = runner._load_from if runner._resume else None
        if resumed is None:
            if beside:
                runner.logger.warning(
                    f'{self._work_dir} has best checkpoints of an earlier training, which are '
                    f'left: {sorted(beside)}. best_*.pth will stand for these, too.'
                )
            return []
        folder = os.path.dirname(os.path.abspath(os.path.expanduser(resumed)))
        is_own = os.path.realpath(folder) == os.path.realpath(self._work_dir)
        entries = []
        for i, entry in enumerate(runner.message_hub.runtime_info.get(self._hub_key, [])):
            name = os.path.basename(entry['file'])
            if name in beside:  # also after the work dir was moved or copied
                entries.append(dict(entry, file=name))
                beside.remove(name)
            elif os.path.isfile(os.path.join(folder, entry['file'])):
                path = os.path.join(folder, entry['file'])
                entries.append(dict(entry, file=os.path.relpath(path, self._work_dir)))
            elif i < self.top_k:  # those behind were deleted on purpose
                runner.logger.warning(
                    f'{entry["file"]} is gone and no longer counts as the best: '
                    f'{self.metric} {entry["score"]:.4f}.'
                )
        for name in sorted(beside) if is_own else []:
            # Written after the checkpoint that was resumed.
            entries += self._read_entry(runner, name)
        return self._sorted(entries)

    def _read_entry(self, runner: Runner, name: str) -> list[dict]:
        """What a best checkpoint that no ranking lists has about itself."""
        try:
            checkpoint = load_checkpoint_file(self._work_dir / name, map_location='cpu')
            ranking = checkpoint['message_hub']['runtime_info'][self._hub_key]
            return [entry for entry in ranking if entry['file'] == name]
        except (CheckpointError, KeyError, OSError) as error:
            runner.logger.warning(f'{self._work_dir / name} is left alone: {error}')
            return []

    def _own_files(self) -> list[Path]:
        return sorted(self._work_dir.glob(f'best_{self._file_name}_iter_*.pth'))

    def _remove(self, outdated: list[dict]) -> None:
        pointer = self._work_dir / LAST_CHECKPOINT
        needed = os.path.basename(pointer.read_text().strip()) if pointer.is_file() else ''
        for entry in outdated:
            # What is in another folder is another run's.
            if os.path.basename(entry['file']) == entry['file'] != needed:
                (self._work_dir / entry['file']).unlink(missing_ok=True)


def write_inference_file(
    checkpoint: str | os.PathLike, folder: Path, stem: str, figures: dict[str, float]
) -> Path:
    """Write what inference needs of a checkpoint: `state_dict` and `inference_meta`.

    Returns:
        `<stem>-<first 8 digits of its SHA-256>.pth` in `folder`.
    """
    content = load_checkpoint_file(checkpoint, map_location='cpu')
    meta = inference_meta(content['meta'], figures)
    buffer = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=content['state_dict']), buffer)
    path = folder / f'{stem}-{hashlib.sha256(buffer.getbuffer()).hexdigest()[:8]}.pth'
    with replacing(path) as file:
        file.write(buffer.getbuffer())
    return path


def names_of_figures(evaluator: Evaluator) -> list[str] | None:
    """Keys of the figures that `evaluator` will have; None where a metric does not tell."""
    if type(evaluator) is not Evaluator:  # another may rename them
        return None
    names = []
    for metric in evaluator.metrics:
        if hasattr(metric, 'metric_names'):
            names += metric.metric_names()
        elif f'{type(metric).__module__}.{type(metric).__name__}' == (
            'mmdet.evaluation.metrics.coco_metric.CocoMetric'
        ):
            names += _names_of_coco_metric(metric)
        else:
            return None
    return names


def _names_of_coco_metric(metric: BaseMetric) -> list[str]:
    """Keys of mmdet 3.3.0's `CocoMetric.compute_metrics`."""
    recalls = [f'AR@{number}' for number in (100, 300, 1000)]
    names = []
    for task in [] if metric.format_only else metric.metrics:
        if task == 'proposal_fast':
            names += [f'AR@{number}' for number in metric.proposal_nums]
        elif task == 'proposal':
            names += metric.metric_items or recalls + [f'AR_{s}@1000' for s in 'sml']
        else:
            items = metric.metric_items or ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
            names += [f'{task}_{item}' for item in items]
            if metric.classwise:
                names += [f'{name}_precision' for name in metric.dataset_meta['classes']]
    # A class's precision is that of the last task.
    return [f'{metric.prefix}/{name}' if metric.prefix else name for name in dict.fromkeys(names)]
