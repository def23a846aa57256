import json
from types import SimpleNamespace

import pytest

from swin_ext.engine.hooks import ResultsTableHook


class ReportingMetric:
    def write_report(self, folder):
        path = folder / 'cases.csv'
        path.write_text('case\n')
        return [path]


@pytest.fixture
def runner(tmp_path):
    logged = []
    return SimpleNamespace(
        work_dir=str(tmp_path),
        logged=logged,
        logger=SimpleNamespace(info=logged.append),
        test_dataloader=SimpleNamespace(
            dataset=SimpleNamespace(metainfo=dict(classes=('LV', 'RV')))
        ),
        test_evaluator=SimpleNamespace(metrics=[object(), ReportingMetric()]),
    )


def test_test_ends_with_a_table(runner, tmp_path):
    figures = {'cmr/dice': 0.75, 'cmr/LV_dice': 0.875, 'cmr/RV_dice': 0.625}
    ResultsTableHook().after_test_epoch(runner, figures)
    assert '| LV    | 0.875 |\n| RV    | 0.625 |\n| Mean  | 0.750 |' in runner.logged[0]
    assert json.loads((tmp_path / 'results.json').read_text()) == figures
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'cases.csv',
        'results.csv',
        'results.json',
        'results.md',
    ]


def test_without_figures_nothing_is_written(runner, tmp_path):
    ResultsTableHook().after_test_epoch(runner, {})
    assert not list(tmp_path.iterdir())
