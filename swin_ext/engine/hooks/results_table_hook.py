"""The results of a test as tables."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.evaluation.results_table import describe, write_results


@HOOKS.register_module()
class ResultsTableHook(Hook):
    """After a test, log one table of all classes and write it into the work directory.

    Writes `results.md`, `results.csv` and `results.json`, and what those metrics add that have a
    method `write_report(folder)`, such as `CMRMetric`. They say what they are of: the checkpoint,
    and what metrics tell by a method `about()`.
    """

    priority = 'LOW'

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not metrics:  # format_only
            return
        classes = runner.test_dataloader.dataset.metainfo['classes']
        about = {}
        for metric in runner.test_evaluator.metrics:
            if hasattr(metric, 'about'):
                about.update(metric.about(), checkpoint=str(runner._load_from))
        runner.logger.info('Results:\n\n' + describe(metrics, classes, about))
        paths = write_results(metrics, classes, Path(runner.work_dir), about)
        for metric in runner.test_evaluator.metrics:
            if hasattr(metric, 'write_report'):
                paths += metric.write_report(Path(runner.work_dir))
        runner.logger.info(f'Written to {runner.work_dir}: {", ".join(p.name for p in paths)}.')
