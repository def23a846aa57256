import hashlib
import pickle
import re

import pytest
import torch

from authors_mask2former import AuthorsMask2Former
from swin_ext.models.swin import ARCHITECTURES, SwinBackbone
from swin_ext.models.weights import command

ARCH = dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))


@pytest.fixture
def convert():
    return command.main


def test_names_are_those_of_the_architectures():
    assert command.ARCHS == list(ARCHITECTURES)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A checkpoint of timm's Swin, whose patch embedding is recognisable."""
    timm_module = pytest.importorskip('timm.models.swin_transformer')
    torch.manual_seed(0)
    model = timm_module.SwinTransformer(
        embed_dim=24, depths=ARCH['depths'], num_heads=ARCH['num_heads'], num_classes=5
    )
    path = tmp_path_factory.mktemp('source') / 'timm.pth'
    torch.save(model.state_dict(), path)
    return path


def test_loads_into_backbone(convert, source, tmp_path, capsys):
    dst = convert([str(source), str(tmp_path / 'new' / 'swin.pth')])
    assert dst == tmp_path / 'new' / 'swin.pth'
    assert [p.name for p in dst.parent.iterdir()] == ['swin.pth']
    written, original = torch.load(dst, weights_only=True), torch.load(source, weights_only=True)
    assert written['patch_embed.projection.weight'].equal(original['patch_embed.proj.weight'])
    missing, unexpected = SwinBackbone(arch=ARCH).load_state_dict(written, strict=False)
    assert unexpected == []
    assert {name.split('.')[-1] for name in missing if not name.startswith('norm')} == {
        'relative_position_index'
    }
    output = capsys.readouterr().out
    assert "Swin weights in timm format: 119 of the model's 125 parameters set." in output
    assert 'head.fc.weight' in output and f'wrote {dst}' in output


def test_window_size(convert, source, tmp_path):
    dst = convert([str(source), str(tmp_path / 'swin.pth'), '--window-size', '12'])
    written = torch.load(dst, weights_only=True)
    backbone = SwinBackbone(arch=ARCH, window_size=12)
    _, unexpected = backbone.load_state_dict(written, strict=False)
    assert unexpected == []
    assert written['stages.3.blocks.1.attn.w_msa.relative_position_bias_table'].shape == (529, 8)


def test_hash_in_name(convert, source, tmp_path):
    argv = [str(source), str(tmp_path / 'swin.pth'), '--hash']
    dst = convert(argv)
    assert dst.name == f'swin-{hashlib.sha256(dst.read_bytes()).hexdigest()[:8]}.pth'
    assert list(tmp_path.iterdir()) == [dst]


def test_keeps_position_embedding(convert, tmp_path):
    source = SwinBackbone(arch=ARCH, use_abs_pos_embed=True, pretrain_img_size=96, window_size=5)
    torch.save(source.state_dict(), tmp_path / 'source.pth')
    written = torch.load(
        convert([str(tmp_path / 'source.pth'), str(tmp_path / 'swin.pth')]), weights_only=True
    )
    expected = {k: v for k, v in source.state_dict().items() if 'position_index' not in k}
    assert written.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in written.items())


def test_refuses_to_overwrite(convert, source, tmp_path, capsys):
    dst = tmp_path / 'swin.pth'
    dst.write_bytes(b'mine')
    with pytest.raises(SystemExit):
        convert([str(source), str(dst)])
    assert f'{dst} exists; give --overwrite to replace it' in capsys.readouterr().err
    assert dst.read_bytes() == b'mine'
    convert([str(source), str(dst), '--overwrite'])
    assert len(torch.load(dst, weights_only=True)) == 119


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--arch', 'tiny'], r"'embed_dims': 24.*'embed_dims': 96"),
        (['--window-size', '0'], '--window-size is 0: it must be positive'),
    ],
)
def test_errors_leave_nothing_behind(convert, source, tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit):
        convert([str(source), str(tmp_path / 'swin.pth'), *argv])
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def source_v2(tmp_path):
    timm_module = pytest.importorskip('timm.models.swin_transformer_v2')
    model = timm_module.SwinTransformerV2(
        img_size=64, window_size=4, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)
    )
    torch.save(model.state_dict(), tmp_path / 'source.pth')
    return tmp_path / 'source.pth'


def test_v2_loads_into_backbone(convert, source_v2, tmp_path, capsys):
    dst = convert([str(source_v2), str(tmp_path / 'swin.pth')])
    written = torch.load(dst, weights_only=True)
    arch = dict(version=2, embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    missing, unexpected = SwinBackbone(arch=arch).load_state_dict(written, strict=False)
    assert unexpected == []
    assert all(name.startswith(('norm0', 'norm1', 'norm2')) for name in missing)
    assert 'Swin weights in timm-v2 format' in capsys.readouterr().out


def test_v2_has_no_tables_to_resize(convert, source_v2, tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert([str(source_v2), str(tmp_path / 'swin.pth'), '--window-size', '12'])
    assert 'no position bias tables to resize' in capsys.readouterr().err
    assert not (tmp_path / 'swin.pth').exists()


def test_no_source(convert, tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert([str(tmp_path / 'none.pth'), str(tmp_path / 'swin.pth')])
    assert 'There is no checkpoint file' in capsys.readouterr().err


def to_authors(state_dict):
    """A Swin of ours under the names of Mask2Former's authors, which are Microsoft's."""
    renamed = {}
    for key, tensor in state_dict.items():
        for ours, theirs in (
            ('stages.', 'layers.'),
            ('.w_msa.', '.'),
            ('patch_embed.projection', 'patch_embed.proj'),
            ('ffn.layers.0.0', 'mlp.fc1'),
            ('ffn.layers.1', 'mlp.fc2'),
        ):
            key = key.replace(ours, theirs)
        renamed[f'backbone.{key}'] = tensor
    return renamed


def test_a_whole_mask2former_of_detectron2(convert, tmp_path, capsys):
    """A file as published: pickled, arrays of NumPy below `model`."""
    authors = AuthorsMask2Former()
    backbone = SwinBackbone(arch=ARCH)
    weights = {**to_authors(backbone.state_dict()), **authors.state_dict()}
    arrays = {key: tensor.numpy() for key, tensor in weights.items()}
    source = tmp_path / 'model_final.pkl'
    source.write_bytes(pickle.dumps({'model': arrays, '__author__': 'third_party'}))
    dst = convert([str(source), str(tmp_path / 'm2f.pth'), '--whole', '--window-size', '8'])
    written = torch.load(dst, weights_only=True)['state_dict']

    assert {key.partition('.')[0] for key in written} == {'backbone', 'panoptic_head'}
    own = {key.partition('.')[2]: t for key, t in written.items() if key.startswith('backbone.')}
    resized = SwinBackbone(arch=ARCH, window_size=8)
    resized.load_state_dict(own)
    table = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    assert own[table].shape == (225, 1)
    qkv = 'stages.1.blocks.0.attn.w_msa.qkv.weight'
    assert own[qkv].equal(backbone.state_dict()[qkv])
    key = 'panoptic_head.cls_embed.weight'
    assert written[key].equal(authors.sem_seg_head.predictor.class_embed.weight)
    output = capsys.readouterr().out
    assert "Names of Mask2Former's authors became those of mmdet" in output
    assert 'of backbone, panoptic_head.' in output


def test_a_whole_model_on_a_resnet(convert, tmp_path):
    weights = {f'backbone.stem.conv1.{leaf}': torch.ones(2) for leaf in ('weight', 'norm.bias')}
    weights['backbone.res2.0.conv1.weight'] = torch.ones(3)
    weights.update(AuthorsMask2Former().state_dict())
    torch.save({'model': weights}, tmp_path / 'r50.pth')
    dst = convert([str(tmp_path / 'r50.pth'), str(tmp_path / 'm2f.pth'), '--whole'])
    written = torch.load(dst, weights_only=True)['state_dict']
    assert {key for key in written if key.startswith('backbone.')} == {
        'backbone.conv1.weight',
        'backbone.bn1.bias',
        'backbone.layer1.0.conv1.weight',
    }


def test_a_whole_model_keeps_its_classes(convert, tmp_path):
    state_dict = {f'backbone.{k}': v for k, v in SwinBackbone(arch=ARCH).state_dict().items()}
    state_dict['decode_head.conv_seg.bias'] = torch.arange(3.0)
    meta = {'dataset_meta': {'classes': ('a', 'b', 'c')}}
    torch.save({'state_dict': state_dict, 'meta': meta}, tmp_path / 'upernet.pth')
    dst = convert([str(tmp_path / 'upernet.pth'), str(tmp_path / 'own.pth'), '--whole'])
    written = torch.load(dst, weights_only=True)
    assert written['meta'] == meta
    assert written['state_dict'].keys() == state_dict.keys()
    assert all(tensor.equal(state_dict[key]) for key, tensor in written['state_dict'].items())
