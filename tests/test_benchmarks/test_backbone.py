import json
import re
import statistics
import sys
from functools import partial

import pytest
import torch
from torch import nn
from tqdm import tqdm

from swin_ext.benchmarks import backbone
from swin_ext.benchmarks import backbone_models as models
from swin_ext.benchmarks import backbone_steps as steps
from swin_ext.models.attention.dispatch import IMPLEMENTATIONS
from swin_ext.models.swin import ARCHITECTURES, SwinBackbone
from swin_ext.models.weights.fitting import match_to_model
from swin_ext.models.weights.swin import convert_swin_state_dict

NANO = dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))

DEVICES = [
    'cpu',
    pytest.param(
        'cuda',
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
    ),
]


@pytest.fixture(autouse=True)
def nano(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, 'nano', NANO)
    monkeypatch.setattr(backbone, 'ARCHS', [*backbone.ARCHS, 'nano'])


def test_names_are_those_that_the_modules_define():
    assert backbone.PEERS == list(models.PEERS) == list(models.PACKAGES)
    assert backbone.MODES == list(steps.STEPS)
    assert backbone.ATTN_IMPLS == list(IMPLEMENTATIONS)
    assert backbone.PRECISIONS == list(steps.PRECISIONS)
    v1 = [name for name in ARCHITECTURES if not name.startswith('v2-')]
    assert backbone.ARCHS == v1


@pytest.fixture
def benchmark(tmp_path):
    """Run the tool on a Swin of two million parameters and return its JSON."""
    path = tmp_path / 'new' / 'report.json'

    def run(*argv):
        backbone.main(
            ['--arch', 'nano', '--batch', '1', '--device', 'cpu', '--json', str(path), *argv]
        )
        return json.loads(path.read_text())

    return run


def test_implementations_of_our_attention_take_part(benchmark, monkeypatch):
    built = []

    class Recorder(SwinBackbone):
        def __init__(self, *args, attn_impl='auto', **kwargs):
            built.append(attn_impl)
            super().__init__(*args, attn_impl=attn_impl, **kwargs)

    monkeypatch.setattr(models, 'SwinBackbone', Recorder)
    report = benchmark(
        *'--sizes 33 --peers --attn-impls eager sdpa --precisions fp32 --repeats 1'.split()
    )
    assert built == ['auto', 'eager', 'sdpa']
    for case in report['cases']:
        assert list(case['models']) == ['swin_ext', 'swin_ext eager', 'swin_ext sdpa']
        assert all(len(result['times_s']) == 1 for result in case['models'].values())


def build_peer(name, size):
    pytest.importorskip(models.PACKAGES[name])
    torch.manual_seed(0)
    return models.PEERS[name](NANO, size)


@pytest.mark.parametrize('device', DEVICES)
def test_report(benchmark, device, tmp_path, capsys):
    report = benchmark(
        '--sizes',
        '64',
        '33x97',
        '--peers',
        'mmdet',
        'torchvision',
        '--precisions',
        'fp32',
        'bf16',
        '--repeats',
        '3',
        '--device',
        device,
    )
    assert [(c['size'], c['mode'], c['precision']) for c in report['cases']] == [
        (size, mode, precision)
        for size in ([64, 64], [33, 97])
        for mode in ('forward', 'train')
        for precision in ('fp32', 'bf16')
    ]
    for case in report['cases']:
        models = case['models']
        own = ['swin_ext', *(f'swin_ext {impl}' for impl in backbone.ATTN_IMPLS)]
        assert list(models) == [*(own if device == 'cuda' else own[:1]), 'mmdet', 'torchvision']
        own_median = statistics.median(models['swin_ext']['times_s'])
        for result in models.values():
            times = result['times_s']
            assert len(times) == 3 and min(times) > 0
            assert result['median_s'] == pytest.approx(statistics.median(times))
            assert result['quartiles_s'] == pytest.approx(
                statistics.quantiles(times, n=4, method='inclusive')[::2]
            )
            assert result['ratio'] == pytest.approx(statistics.median(times) / own_median)
            if case['mode'] == 'forward' and device == 'cpu':
                assert result['memory_bytes'] is None
            else:
                assert result['memory_bytes'] > 16 * 16 * 24  # less than stage 1's map

    assert report['settings'] == dict(arch='nano', batch=1, repeats=3, device=device)
    assert report['skipped'] == {}
    assert report['versions']['torch'] == torch.__version__
    assert report['machine']['threads'] == torch.get_num_threads()
    output = capsys.readouterr().out
    assert (
        f'$ python tools/benchmark_backbone.py --arch nano --batch 1 --device cpu --json '
        f'{tmp_path}/new/report.json --sizes 64 33x97' in output
    )
    last = report['cases'][-1]['models']['torchvision']
    row = output.split('\n- time')[0].strip().splitlines()[-1].strip('| ').split(' | ')
    assert row == [
        '33x97',
        'bf16',
        'train',
        'torchvision',
        f'{last["median_s"] * 1e3:.1f}',
        '{:.1f} - {:.1f}'.format(*(t * 1e3 for t in last['quartiles_s'])),
        f'{last["ratio"]:.2f}',
        f'{last["memory_bytes"] / 2**20:.1f}',
    ]


def test_models_take_turns():
    calls, clock = [], [0]
    durations = dict(a=1, b=10, c=100)

    def step(name):
        calls.append(name)
        clock[0] += durations[name]

    turns = {name: partial(step, name) for name in durations}
    with tqdm(disable=True) as progress:
        times = steps.time_in_turns(
            turns, 20, lambda: calls.append('sync'), progress, lambda: clock[0]
        )
    assert times == {name: [duration] * 20 for name, duration in durations.items()}
    order = ''.join(calls[1::3])
    assert calls == [x for name in order for x in ('sync', name, 'sync')]
    repeats = [order[i : i + 3] for i in range(0, 60, 3)]
    assert {''.join(sorted(repeat)) for repeat in repeats} == {'abc'}
    assert len(set(repeats)) > 3  # not always after the same one


def test_what_a_step_does(benchmark, monkeypatch):
    """Each step of a recorded peer: its mode, gradients and precision."""
    seen = []

    class Recorder(SwinBackbone):
        def forward(self, x):
            assert all(parameter.grad is None for parameter in self.parameters())
            seen.append(
                (
                    self.training,
                    torch.is_grad_enabled(),
                    torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled(),
                )
            )
            maps = super().forward(x)
            if maps[0].requires_grad:
                maps[3].register_hook(lambda grad: seen.append(grad.unique().tolist()))
            return maps

    monkeypatch.setitem(models.PEERS, 'mmdet', lambda arch, size: Recorder(arch))
    benchmark('--sizes', '64', '--peers', 'mmdet', '--repeats', '1')
    one_by_mean = [1 / (192 * 2 * 2)]  # gradient of the mean over stage 4, to bf16's digits
    trained = [(True, True, False), one_by_mean] * 3
    autocast = [(True, True, True), one_by_mean] * 3
    assert seen[2:] == [  # after two for the checks: warm-up, second warm-up or memory, timed
        *[(False, False, False)] * 3,
        *[(False, False, True)] * 3,
        *[pytest.approx(x, rel=2**-8) if isinstance(x, list) else x for x in trained + autocast],
    ]


@pytest.mark.parametrize('name', ['mmdet', 'timm', 'torchvision', 'hf'])
@pytest.mark.parametrize('size', [(64, 64), (33, 97)], ids='{0[0]}x{0[1]}'.format)
def test_peers_do_the_same_work(name, size):
    peer = build_peer(name, size)
    own, images = SwinBackbone(arch=NANO), torch.randn(2, 3, *size)
    models.check_same_work(name, peer, own, images)
    with torch.no_grad():
        peer.train()
        trained = peer(images)
        peer.eval()
        for x, y in zip(trained, peer(images)):
            torch.testing.assert_close(x, y)  # neither dropout nor stochastic depth
            assert x.is_contiguous()


@pytest.mark.parametrize('name', ['mmdet', 'timm', 'torchvision', 'hf'])
@torch.no_grad()
def test_peers_compute_the_same_maps(name):
    """At a size that windows divide at each stage, where all agree on shifting."""
    peer = build_peer(name, (448, 448))
    peer.eval()
    for key, parameter in peer.named_parameters():
        if not key.startswith('norms.'):  # those added to classifiers, which no converter knows
            parameter.add_(0.1 * torch.randn_like(parameter))
    own = SwinBackbone(arch=NANO).eval()
    matched = match_to_model(convert_swin_state_dict(peer.state_dict()), own.state_dict())
    own.load_state_dict(matched.state_dict, strict=False)
    images = torch.randn(1, 3, 448, 448)
    for x, y in zip(own(images), peer(images)):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(out_indices=(0, 1, 2)), r'mmdet has \[\(1, 24, 16, 16\), .* they do not do the same'),
        (
            dict(patch_size=2),
            r'mmdet has \d+ parameters, SwinBackbone \d+, for images \(1, 3, 64, 64',
        ),
    ],
)
def test_other_work_is_refused(benchmark, monkeypatch, capsys, kwargs, message):
    def build(arch, size):
        peer = SwinBackbone(arch, **kwargs)
        if 'out_indices' in kwargs:  # as many parameters, fewer maps
            peer.unused = nn.LayerNorm(192)
        return peer

    monkeypatch.setitem(models.PEERS, 'mmdet', build)
    with pytest.raises(SystemExit):
        benchmark('--sizes', '64', '--peers', 'mmdet')
    assert re.search(message, capsys.readouterr().err)


def test_peer_that_cannot_run(benchmark, monkeypatch, capsys):
    def build(arch, size):
        if size == (33, 33):
            raise RuntimeError('33 | 7 does\nnot go')
        return SwinBackbone(arch)

    monkeypatch.setitem(models.PEERS, 'timm', build)
    monkeypatch.setattr(models, 'find_missing', lambda peers: {})
    report = benchmark(
        '--sizes',
        '33',
        '64',
        '--peers',
        'timm',
        '--modes',
        'forward',
        '--precisions',
        'fp32',
        '--repeats',
        '1',
    )
    failed, ran = (case['models']['timm'] for case in report['cases'])
    assert failed == dict(error='RuntimeError: 33 | 7 does not go')
    assert len(ran['times_s']) == 1
    assert '| timm | not run: RuntimeError: 33 / 7 does not go |' in capsys.readouterr().out


def test_step_that_fails():
    """A model that breaks off in training leaves the others' figures whole."""

    class Broken(nn.Linear):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise MemoryError('no room')
            return [super().forward(x)]

    models = {name: nn.Sequential(Broken(2, 2)) for name in ('swin_ext', 'timm')}
    models['timm'] = nn.Sequential(nn.Linear(2, 2), nn.Unflatten(0, (1, 3)))
    with tqdm(disable=True, total=4) as progress:
        results = steps.measure_case(
            models, 'train', 'fp32', torch.randn(3, 2), torch.device('cpu'), 2, progress
        )
        assert progress.total == 2
    assert results['swin_ext'] == dict(error='MemoryError: no room')
    assert len(results['timm']['times_s']) == 2
    assert results['timm']['ratio'] is None


def test_missing_peer_is_skipped(benchmark, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    report = benchmark(
        '--sizes',
        '64',
        '--peers',
        'hf',
        '--modes',
        'forward',
        '--precisions',
        'fp32',
        '--repeats',
        '1',
    )
    assert list(report['cases'][0]['models']) == ['swin_ext']
    assert 'transformers cannot be imported' in report['skipped']['hf']
    assert 'hf skipped: transformers cannot be imported' in capsys.readouterr().out


def test_activation_bytes():
    """Of y = exp(x W + b) and y * y, autograd keeps x, y (three times) and W, a parameter."""
    linear = nn.Linear(5, 7)
    x = torch.randn(3, 5, requires_grad=True)

    def step():
        y = linear(x).exp()
        (y * y).sum().backward()

    assert steps.activation_bytes(step, linear) == 4 * (3 * 5 + 3 * 7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_peak_cuda_bytes():
    held = torch.empty(2**20, dtype=torch.uint8, device='cuda')

    def step():
        for _ in range(3):
            torch.empty(2**21, dtype=torch.uint8, device='cuda')

    assert steps.peak_cuda_bytes(step) == 2**21
    assert len(held) == 2**20


@pytest.fixture
def small_detector(tmp_path, monkeypatch):
    path = tmp_path / 'detector.py'
    path.write_text(f"""
_base_ = {str(models.DETECTOR_CONFIG)!r}
model = dict(
    neck=dict(out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16)))
""")
    monkeypatch.setattr(models, 'DETECTOR_CONFIG', path)


@pytest.mark.usefixtures('small_detector')
def test_detector(benchmark):
    report = benchmark(
        '--sizes',
        '64',
        '--peers',
        'mmdet',
        '--modes',
        'detector',
        '--precisions',
        'fp32',
        '--repeats',
        '1',
    )
    (case,) = report['cases']
    assert case['mode'] == 'detector' and list(case['models']) == ['swin_ext', 'mmdet']
    for result in case['models'].values():
        assert len(result['times_s']) == 1 and result['memory_bytes'] > 1e6


@pytest.mark.usefixtures('small_detector')
def test_detectors_agree():
    detectors = models.build_detectors(NANO, torch.device('cpu'))
    batch = models.make_detector_batch(detectors['swin_ext'], 2, (64, 64))
    losses = []
    for detector in detectors.values():
        torch.manual_seed(0)
        losses.append(detector.parse_losses(detector(**batch, mode='loss'))[1])
    assert losses[0].keys() == losses[1].keys() > {'loss_rpn_cls', 'loss_bbox', 'loss_mask'}
    for key, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--sizes', '224', '800x'], "'800x' is no size: write 224 or, height first, 800x1333"),
        (['--sizes', '0'], "'0' is no size"),
        (['--repeats', '0'], "'0' is no positive whole number"),
        (['--device', 'cpu', '--precisions', 'fp16'], 'use bf16 on a CPU'),
        (['--device', 'cpu', '--attn-impls', 'triton'], 'for CUDA alone'),
        (['--modes', 'detector', '--peers', 'timm'], 'add mmdet to --peers'),
        (['--arch', 'giant'], 'invalid choice'),
        pytest.param(
            ['--device', 'cuda'],
            'use --device cpu',
            marks=pytest.mark.skipif(
                torch.cuda.is_available(), reason='needs a machine without CUDA'
            ),
        ),
    ],
)
def test_argument_errors(capsys, argv, message):
    with pytest.raises(SystemExit):
        backbone.main(argv)
    assert message in capsys.readouterr().err


def test_threads():
    before = torch.get_num_threads()
    try:
        report = backbone.main(
            [
                '--arch',
                'nano',
                '--sizes',
                '32',
                '--peers',
                '--modes',
                'forward',
                '--precisions',
                'fp32',
                '--repeats',
                '1',
                '--device',
                'cpu',
                '--threads',
                str(before + 1),
            ]
        )
        assert report['machine']['threads'] == before + 1
    finally:
        torch.set_num_threads(before)
