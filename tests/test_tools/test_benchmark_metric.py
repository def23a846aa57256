import json

import pytest


def test_both_metrics_see_the_same_and_find_the_same(load_tool, tmp_path, capsys):
    path = tmp_path / 'new' / 'metric.json'
    load_tool('benchmark_metric').main(
        [
            '--images',
            '4',
            '--instances',
            '6',
            '--predictions',
            '9',
            '--size',
            '64',
            '--json',
            str(path),
        ]
    )
    result = json.loads(path.read_text())
    assert result['settings']['images'] == 4
    assert result['largest_difference'] <= 5.1e-4
    assert 0 < result['figures']['FastCocoMetric']['coco/segm_mAP'] < 1
    for parts in result['seconds'].values():
        assert parts['total'] == pytest.approx(parts['init'] + parts['process'] + parts['evaluate'])
    assert '| evaluate |' in capsys.readouterr().out
