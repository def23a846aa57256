import pytest

from swin_ext.visualization.curves import draw_curves, group_losses
from toy_log_lines import train_line, val_line


def test_the_curves():
    records = [
        train_line(10),
        train_line(20, loss_cls=0.3),
        val_line(20),
        train_line(30, samples_per_s=12.5),
        val_line(30, bbox=0.45, segm=0.41),
    ]
    figure = draw_curves(records, 'run')
    losses, learning_rate, maps, throughput = (
        {line.get_label(): tuple(map(list, line.get_data())) for line in ax.lines}
        for ax in figure.axes
    )
    steps = [10, 20, 30]
    assert losses.keys() == {'total', 'RPN', 'RoI box', 'mask'}
    assert losses['total'] == (steps, [3.1] * 3)
    assert losses['RPN'] == (steps, pytest.approx([0.3] * 3))
    assert losses['RoI box'] == (steps, pytest.approx([1.2, 1.1, 1.2]))
    assert losses['mask'] == (steps, [1.6] * 3)
    assert list(learning_rate.values()) == [(steps, pytest.approx([0.01, 0.02, 0.03]))]
    assert maps == {
        'bbox mAP': ([20, 30], [0.5, 0.45]),
        'bbox mAP at IoU 0.5': ([20, 30], [1.0, 0.9]),
        'segm mAP': ([20, 30], [0.4, 0.41]),
        'segm mAP at IoU 0.5': ([20, 30], [0.8, 0.82]),
    }
    assert list(throughput.values()) == [([30], [12.5])]


def test_throughput_of_a_run_without_gpu_stats_hook():
    """The `time` of a validation is that of its own iterations."""
    figure = draw_curves(
        [train_line(10, time=0.5), dict(val_line(10), time=3.0), train_line(20, time=0.25)], 'run'
    )
    (line,) = figure.axes[3].lines
    assert tuple(map(list, line.get_data())) == ([10, 20], [2.0, 4.0])
    assert figure.axes[3].get_ylabel() == 'iterations / s'


def test_the_best_map_is_written_at_its_point():
    figure = draw_curves(
        [train_line(10), val_line(10, bbox=0.6, segm=0.3), val_line(20, bbox=0.2, segm=0.7)], 'run'
    )
    notes = {text.get_text(): text.xy for text in figure.axes[2].texts}
    assert notes == {'0.600': (10, 0.6), '0.700': (20, 0.7)}


def test_losses_of_another_head_keep_their_names():
    assert group_losses(['loss_bbox', 'loss_dice', 'loss_rpn_cls', 's0.loss_cls']) == {
        'RoI box': ['loss_bbox'],
        'loss_dice': ['loss_dice'],
        'RPN': ['loss_rpn_cls'],
        's0.loss_cls': ['s0.loss_cls'],
    }


def test_the_loss_of_the_validation_is_beside_that_of_the_training():
    records = [train_line(10), {**val_line(10), 'val/loss': 2.5, 'val/loss_cls': 1.0}]
    (line,) = (
        line
        for line in draw_curves(records, 'run').axes[0].lines
        if line.get_label() == 'validation'
    )
    assert tuple(map(list, line.get_data())) == ([10], [2.5])
