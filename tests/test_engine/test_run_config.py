"""The text of a run's config is what MMEngine makes of it, made once."""

from __future__ import annotations

import copy
import pickle

import mmengine.config.config
import pytest
import yapf.yapflib.yapf_api
from mmengine.config import Config

from swin_ext.engine.run_config import RunConfig
from tiny_model import NANO


@pytest.fixture
def formatted(monkeypatch):
    """Texts that yapf laid out."""
    texts = []

    def format_code(text, **style):
        texts.append(text)
        return yapf.yapflib.yapf_api.FormatCode(text, **style)

    monkeypatch.setattr(mmengine.config.config, 'FormatCode', format_code)
    return texts


def test_it_is_formatted_once_for_as_long_as_it_stays(formatted):
    cfg = Config.fromfile(NANO)
    own = RunConfig.of(cfg)
    expected = [cfg.pretty_text]
    del formatted[:]
    assert [own.pretty_text, own.dump(), copy.deepcopy(own).pretty_text] == 3 * expected
    assert len(formatted) == 1
    own.model.backbone.arch.embed_dims = 48  # deep inside, of what both share
    assert own.pretty_text == cfg.pretty_text != expected[0]
    assert len(formatted) == 3


@pytest.mark.parametrize(
    'copied', [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_have_their_own(copied, formatted):
    cfg = RunConfig.of(Config(dict(a=1, b=dict(c=2))))
    text = cfg.pretty_text
    other = copied(cfg)
    other.a = 5
    assert other.pretty_text == 'a = 5\nb = dict(c=2)\n' and cfg.pretty_text == text


def test_a_run_makes_the_text_once(tiny_model, formatted):
    """For its log, its file, its visualizer, the message hub and each checkpoint."""
    runner = tiny_model.runner('formatted', max_epochs=2)
    runner.train()
    assert len(set(formatted)) == len(formatted)
    of_the_run = [text for text in formatted if 'optim_wrapper' in text]
    assert len(of_the_run) == 1
