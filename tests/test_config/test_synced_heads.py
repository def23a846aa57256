"""One key gives heads the classes that average over all ranks."""

from __future__ import annotations

import pytest
from project import SHIPPED, config

import swin_ext  # noqa: F401 -- registers
from swin_ext.config import ConfigError, finalise_config


@pytest.mark.parametrize('name', [name for name in SHIPPED if 'mask2former' not in name])
def test_heads_become_synchronised(name):
    cfg = config(name)
    cfg.sync_avg_factor = True
    for _ in range(2):  # doing it again changes nothing
        finalise_config(cfg)
        assert cfg.model.rpn_head.type == 'SyncedRPNHead'
        heads = cfg.model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            assert head.type == 'SyncedShared2FCBBoxHead'
        assert cfg.model.roi_head.mask_head.type == 'SyncedFCNMaskHead'


def test_heads_stay_by_default():
    cfg = config(SHIPPED[0])
    finalise_config(cfg)
    assert cfg.model.rpn_head.type == 'RPNHead'


def test_a_model_without_such_heads_is_told():
    cfg = config('mask2former_swin-t')
    cfg.sync_avg_factor = True
    with pytest.raises(ConfigError, match='sync_avg_factor.*no head of the model averages'):
        finalise_config(cfg)
