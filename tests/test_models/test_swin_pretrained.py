"""`init_cfg` of `SwinBackbone`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger

from swin_ext.models import SwinBackbone
from swin_ext.models.weights.swin import SwinWeightsError

ARCH = dict(embed_dims=16, depths=(1, 2), num_heads=(1, 2))


@pytest.fixture(scope='module')
def peer():
    """A classifier of timm with random weights."""
    timm_module = pytest.importorskip('timm.models.swin_transformer')
    torch.manual_seed(0)
    model = timm_module.SwinTransformer(
        img_size=112, embed_dim=16, depths=(1, 2), num_heads=(1, 2), num_classes=3
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def log(caplog):
    """What goes to mmengine's current logger, which has no parent."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def save(state_dict, path):
    if path.suffix == '.safetensors':
        pytest.importorskip('safetensors.torch').save_file(state_dict, path)
    else:
        torch.save(dict(model=state_dict), path)
    return str(path)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
@torch.no_grad()
def test_weights_of_timm(peer, tmp_path, suffix, log):
    path = save(peer.state_dict(), tmp_path / f'swin{suffix}')
    backbone = SwinBackbone(
        arch=ARCH, out_indices=(0, 1), init_cfg=dict(type='Pretrained', checkpoint=path)
    ).eval()
    backbone.init_weights()
    images = torch.randn(2, 3, 112, 112)
    first, last = peer.forward_intermediates(images, norm=True, intermediates_only=True)
    first = F.layer_norm(first.movedim(1, -1), (16,)).movedim(-1, 1)  # timm has no such norm
    for actual, expected in zip(backbone(images), (first, last)):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    for part in (
        f'{path}: Swin weights in timm format',
        'unused from the file: 2',
        'head.fc.weight',
        're-initialised: 2',
        'norm0.weight (not in the file)',
    ):
        assert part in log.text


def test_weights_of_another_architecture(peer, tmp_path):
    path = save(peer.state_dict(), tmp_path / 'swin.pth')
    backbone = SwinBackbone('tiny', init_cfg=dict(type='Pretrained', checkpoint=path))
    with pytest.raises(SwinWeightsError, match='do not fit the model'):
        backbone.init_weights()


@pytest.mark.parametrize(
    'init_cfg',
    [dict(type='Pretrained'), dict(type='Normal', std=0.1), dict(checkpoint='swin.pth')],
    ids=str,
)
def test_other_initialisation_is_refused(init_cfg):
    backbone = SwinBackbone(arch=ARCH, out_indices=(0, 1), init_cfg=init_cfg)
    with pytest.raises(ValueError, match=r"must be dict\(type='Pretrained', checkpoint=\.\.\.\)"):
        backbone.init_weights()


def test_missing_file_is_named(tmp_path):
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='none.pth'):
        SwinBackbone(arch=ARCH, out_indices=(0, 1), init_cfg=init_cfg).init_weights()
