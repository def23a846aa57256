"""The ways to use a model are timed on the same work, and parts add up to the whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from swin_ext.benchmarks.inference import Clock, benchmark_inference, dice, draw, table
from swin_ext.inference.model import ModelError


def test_parts_of_a_part_count_once(monkeypatch):
    now = iter([0, 2, 3, 10, 14, 15])  # outer from 0 to 15, inner from 2 to 3 and from 10 to 14
    monkeypatch.setattr(Clock, 'timer', staticmethod(lambda: next(now)))
    clock = Clock()
    with clock.measuring('outer'):
        for _ in range(2):
            with clock.measuring('inner'):
                pass
    assert clock.seconds == dict(inner=5, outer=10)


def test_the_best_instance_is_drawn_on_top():
    masks = np.zeros((2, 2, 3), bool)
    masks[0, 0], masks[1, :, 0] = True, True
    assert draw(np.array([4, 0]), masks).tolist() == [[5, 5, 5], [1, 0, 0]]


def test_dice_is_of_the_same_classes():
    ours, theirs = np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 1]])
    assert dice([ours], [theirs]) == pytest.approx(2 * 2 / (3 + 4))
    assert dice([np.zeros((1, 1))], [np.zeros((1, 1))]) == 1


def test_a_comparison(tiny_model, tmp_path, capsys):
    figures = benchmark_inference(
        str(tiny_model.path),
        tiny_model.data.root / 'images',
        number=4,
        batch=2,
        repeats=1,
        device='cpu',
        score_threshold=0.5,
        json_path=tmp_path / 'figures.json',
    )
    assert list(figures) == ['DetInferencer', 'ours, fp32', 'ours, bf16']
    assert figures['ours, fp32']['dice'] == 1
    for row in figures.values():
        parts = [row[part] for part in ('read', 'network', 'paste', 'write', 'rest')]
        assert all(part > 0 for part in parts)
        # Medians of one pass: the parts are the whole.
        assert sum(parts) == pytest.approx(1e3 / row['images_per_s'], rel=1e-6)
    assert json.loads((tmp_path / 'figures.json').read_text())['figures'] == figures
    assert table(figures, 'DetInferencer') in capsys.readouterr().out


def test_ways_that_differ_are_not_compared(tiny_model, monkeypatch):
    monkeypatch.setattr('swin_ext.benchmarks.inference.dice', lambda one, other: 0.949)
    with pytest.raises(ModelError, match='find other things: Dice 0.949'):
        benchmark_inference(
            str(tiny_model.path), tiny_model.data.root / 'images', number=1, repeats=0, device='cpu'
        )


def test_no_images(tmp_path, tiny_model):
    with pytest.raises(ModelError, match='has no images'):
        benchmark_inference(str(tiny_model.path), tmp_path)
