"""`attn_impl='auto'`: which implementation is chosen, when it is measured, and who else knows."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from swin_ext.models import SwinBackbone
from swin_ext.models.attention import choices, dispatch, eager, measuring, sdpa
from swin_ext.models.attention.choices import AttentionChoicesError, Choices, case_of, fastest
from swin_ext.models.attention.dispatch import IMPLEMENTATIONS
from swin_ext.models.attention.problem import Problem
from swin_ext.models.attention.windows import Windows
from two_ranks import run_on_two_ranks

LARGE, SMALL = (8, 64, 64, 32), (1, 64, 64, 32)
SDPA_WINS = dict(eager=3.0, sdpa=1.0)


def problem_of(shape=LARGE, device='cpu', dtype=torch.float32, window=7, shift=(3, 3)):
    windows = Windows(shape[1:3], window, shift)
    return Problem(torch.device(device), dtype, shape, 2, windows, 0.0)


def terms(cosine=False):
    return SimpleNamespace(logit_scale=cosine or None, padding=None)


class Clock:
    """A measurement that takes no time, and what it was asked for."""

    def __init__(self, **times):
        self.times = times
        self.calls = []

    def __call__(self, problem, x_dtype, has_padding_value, is_cosine, is_training, serving):
        self.calls.append((problem, is_training, sorted(serving)))
        return {name: self.times[name] for name in serving if name in self.times}


def choose(chooser, problem, is_training=False, cosine=False):
    return chooser.choose(problem, problem.dtype, terms(cosine), is_training, IMPLEMENTATIONS)


@pytest.mark.parametrize(
    'times, expected',
    [
        (dict(eager=2.0, sdpa=1.0, triton=1.5), 'sdpa'),
        (dict(eager=2.0, sdpa=1.5, triton=1.0), 'triton'),
        (dict(eager=1.0, sdpa=2.0), 'eager'),
        (dict(eager=1.0, sdpa=0.95), 'eager'),  # by chance, maybe
        (dict(eager=1.0, sdpa=0.95, triton=0.9), 'triton'),
        (dict(sdpa=2.0, triton=1.9), 'triton'),  # the default ran out of memory
        ({}, 'eager'),
    ],
    ids=str,
)
def test_fastest(times, expected):
    assert fastest(times) == expected


def test_each_case_is_measured_once(tmp_path):
    clock = Clock(**SDPA_WINS)
    chooser = Choices(tmp_path / 'choices.json', clock)
    for _ in range(3):
        assert choose(chooser, problem_of()) == 'sdpa'
    (call,) = clock.calls
    assert call[1:] == (False, ['eager', 'sdpa'])
    # On a CPU, the answer is for large maps of any size, but not for other types and directions.
    clock.times = dict(eager=1.0, sdpa=3.0)
    assert choose(chooser, problem_of((2, 256, 256, 16), window=8, shift=(0, 0))) == 'sdpa'
    assert choose(chooser, problem_of(), is_training=True) == 'eager'
    assert choose(chooser, problem_of(), cosine=True) == 'eager'
    assert choose(chooser, problem_of(dtype=torch.bfloat16)) == 'eager'
    assert [call[1] for call in clock.calls] == [False, True, False, False]


def test_without_a_file_a_cpu_gets_advice_alone(monkeypatch):
    """A resumed run computes the same to the last bit, whatever the clock says."""
    told, clock = [], Clock(**SDPA_WINS)
    monkeypatch.setattr(choices, 'print_log', lambda text, *_: told.append(text))
    chooser = Choices(measure=clock)
    assert [choose(chooser, problem_of()) for _ in range(3)] == ['eager'] * 3
    assert len(clock.calls) == 1
    (line,) = told
    assert "attn_impl='eager' is chosen" in line and "'sdpa' is faster here" in line


def test_what_is_not_measured():
    clock = Clock(**SDPA_WINS)
    chooser = Choices(measure=clock)
    assert choose(chooser, problem_of(SMALL)) == 'eager'
    assert choose(chooser, problem_of(device='meta')) == 'eager'
    assert choose(chooser, problem_of((0, 4096, 4096, 32))) == 'eager'
    torch.use_deterministic_algorithms(True)
    try:
        assert choose(chooser, problem_of()) == 'eager'
    finally:
        torch.use_deterministic_algorithms(False)
    assert clock.calls == []


def test_nothing_is_kept_where_nothing_was_measured(tmp_path):
    chooser = Choices(tmp_path / 'choices.json', Clock(**SDPA_WINS))
    torch.use_deterministic_algorithms(True)
    try:
        choose(chooser, problem_of())
    finally:
        torch.use_deterministic_algorithms(False)
    assert choose(chooser, problem_of()) == 'sdpa'


@pytest.fixture
def cuda(monkeypatch):
    """Enough of CUDA for cases to be told apart."""
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'a GPU')
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(IMPLEMENTATIONS['triton'], 'refusal', lambda problem: None)


def test_cases_on_cuda(cuda):
    clock = Clock(eager=3.0, sdpa=2.0, triton=1.0)
    chooser = Choices(measure=clock)
    base = dict(shape=(2, 200, 334, 96), device='cuda', dtype=torch.bfloat16)
    assert choose(chooser, problem_of(**base)) == 'triton'
    assert clock.calls[0][2] == ['eager', 'sdpa', 'triton']
    # 2784 windows; so many to a power of two are of one case.
    for shape in ((2, 200, 250, 96), (2, 170, 334, 96), (1, 200, 501, 96)):
        choose(chooser, problem_of(**dict(base, shape=shape)))
    assert len(clock.calls) == 1
    others = [
        dict(base, shape=(2, 100, 167, 96)),
        dict(base, shape=(2, 200, 334, 128)),
        dict(base, shape=(2, 203, 336, 96)),  # no padding
        dict(base, shift=(0, 0)),
        dict(base, window=8),
        dict(base, dtype=torch.float16),
    ]
    for other in others:
        choose(chooser, problem_of(**other))
    choose(chooser, problem_of(**base), is_training=True)
    choose(chooser, problem_of(**base), cosine=True)
    assert len(clock.calls) == 1 + len(others) + 2


def test_graphs_that_are_captured_take_what_is_known(cuda, monkeypatch):
    clock = Clock(eager=3.0, sdpa=2.0, triton=1.0)
    chooser = Choices(measure=clock)
    small, large = (problem_of((2, side, side, 96), 'cuda') for side in (28, 112))
    assert choose(chooser, small) == 'triton'
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert choose(chooser, small) == 'triton'
    assert choose(chooser, large) == 'eager'
    assert len(clock.calls) == 1


def test_a_map_too_large_for_the_others_of_its_case(cuda, monkeypatch):
    chooser = Choices(measure=Clock(eager=3.0, sdpa=2.0, triton=1.0))
    problem = problem_of((2, 28, 28, 96), 'cuda')
    assert choose(chooser, problem) == 'triton'
    monkeypatch.setattr(IMPLEMENTATIONS['triton'], 'refusal', lambda problem: 'too large')
    assert choose(chooser, problem) == 'eager'


def test_threads_measure_once(tmp_path):
    clock = Clock(**SDPA_WINS)

    def slow(*args):
        time.sleep(0.05)
        return clock(*args)

    chooser, found = Choices(tmp_path / 'choices.json', slow), []
    threads = [
        threading.Thread(target=lambda: found.append(choose(chooser, problem_of())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ['sdpa'] * 4 and len(clock.calls) == 1


# The file of choices


def test_file_of_choices(tmp_path):
    path = tmp_path / 'new' / 'choices.json'
    clock = Clock(**SDPA_WINS)
    first = Choices(path, clock)
    choose(first, problem_of())
    choose(first, problem_of(), is_training=True)
    entries = json.loads(path.read_text())['choices']
    assert [entry['direction'] for entry in entries] == ['forward', 'training']
    assert entries[0]['implementation'] == 'sdpa'
    assert entries[0]['milliseconds'] == dict(eager=3000.0, sdpa=1000.0)

    other = Clock(eager=1.0, sdpa=3.0)
    second = Choices(path, other)
    assert choose(second, problem_of()) == 'sdpa' and other.calls == []
    torch.use_deterministic_algorithms(True)  # what is written is no measurement
    try:
        assert choose(second, problem_of()) == 'sdpa'
    finally:
        torch.use_deterministic_algorithms(False)
    # What is not in it is measured and added.
    assert choose(second, problem_of(), cosine=True) == 'eager'
    entries = json.loads(path.read_text())['choices']
    assert [entry['implementation'] for entry in entries] == ['sdpa', 'sdpa', 'eager']


def test_file_that_the_environment_names(tmp_path, monkeypatch):
    path = tmp_path / 'choices.json'
    choices.add_choice(path, case_of(problem_of(), False, False), 'sdpa', {})
    monkeypatch.setenv('SWIN_EXT_ATTENTION_CHOICES', str(path))
    choices.shared_choices.cache_clear()
    try:
        assert choose(choices.shared_choices(), problem_of(SMALL)) == 'sdpa'
    finally:
        choices.shared_choices.cache_clear()


def entry(**changes):
    case = case_of(problem_of(), False, False)._asdict()
    return dict(case, implementation='sdpa', **changes)


@pytest.mark.parametrize(
    'text, message',
    [
        ('{"choices": [', 'choices.json, which SWIN_EXT_ATTENTION_CHOICES names, is no file of ch'),
        ('[]', 'is no file of choices .TypeError'),
        ('{}', "KeyError: 'choices'"),
        (json.dumps(dict(choices=[dict(device='cpu')])), "KeyError: 'dtype'.*Remove it"),
        (json.dumps(dict(choices=[dict(entry(), window=[7])])), 'unhashable'),
        (json.dumps(dict(choices=[dict(entry(), implementation=None)])), 'implementation is None'),
        ('\x00\xff', 'is no file'),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    path = tmp_path / 'choices.json'
    path.write_text(text)
    with pytest.raises(AttentionChoicesError, match=message):
        Choices(path)


@pytest.mark.parametrize(
    'name, message',
    [
        ('triton', "'triton' is chosen for device cpu, dtype float32, .*but it runs on CUDA dev"),
        ('flash', "'flash' is chosen for .*, but there are eager, sdpa, triton. Remove the entry"),
    ],
)
def test_choices_that_do_not_serve(tmp_path, name, message):
    path = tmp_path / 'choices.json'
    choices.add_choice(path, case_of(problem_of(), False, False), name, {})
    with pytest.raises(AttentionChoicesError, match=message):
        choose(Choices(path), problem_of())


# Real measurements


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('is_training', [False, True])
@pytest.mark.parametrize('cosine', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_measurement(dtype, cosine, is_training):
    """With no mark on the state of the caller."""
    problem = problem_of((1, 15, 13, 32), dtype=dtype)
    packed = []
    before = torch.get_rng_state()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x) or x, lambda x: x)
    with Recorder() as recorder, hooks, torch.inference_mode():
        times = measuring.measure(
            problem, torch.float32, True, cosine, is_training, dict(eager=eager, sdpa=sdpa)
        )
    assert times.keys() == {'eager', 'sdpa'} and all(0 < t < 5 for t in times.values())
    assert torch.equal(torch.get_rng_state(), before)
    assert recorder.operations == [] and packed == []


def test_slow_and_broken_ones_are_not_chosen(caplog):
    def slow(x, terms, windows):
        time.sleep(0.05)
        return sdpa.attend(x, terms, windows)

    def broken(x, terms, windows):
        raise torch.cuda.OutOfMemoryError('no room\nleft')

    def times_of(attend):
        others = dict(eager=eager, sdpa=SimpleNamespace(attend=attend))
        return measuring.measure(
            problem_of((1, 7, 7, 32)), torch.float32, True, False, False, others
        )

    times = times_of(slow)
    assert fastest(times) == 'eager' and times['sdpa'] > 0.05 > times['eager']
    assert times_of(broken).keys() == {'eager'}


# In a model


ARCH = dict(embed_dims=16, depths=(2, 1), num_heads=(1, 2))


def make_backbone(**kwargs):
    torch.manual_seed(0)
    return SwinBackbone(arch=ARCH, out_indices=(0, 1), drop_path_rate=0.0, **kwargs)


@pytest.fixture
def chooser(monkeypatch, tmp_path):
    """What a model asks: measures maps of any size, and takes what the fake clock says."""
    monkeypatch.setattr(choices, 'LARGE_ON_CPU', 0)
    chooser = Choices(tmp_path / 'choices.json', Clock(**SDPA_WINS))
    monkeypatch.setattr(dispatch, 'shared_choices', lambda: chooser)
    return chooser


@pytest.fixture
def used(monkeypatch):
    """Names of the implementations in the order in which they attend."""
    names = []
    for name, module in dispatch.IMPLEMENTATIONS.items():

        def attend(x, terms, windows, name=name, attend=module.attend):
            if threading.current_thread() is threading.main_thread():
                names.append(name)
            return attend(x, terms, windows)

        monkeypatch.setattr(module, 'attend', attend)
    return names


def test_models_take_the_faster_one(chooser, used):
    images = torch.randn(1, 3, 40, 40)
    backbone = make_backbone()
    with torch.no_grad():
        outs = backbone(images)
        expected = make_backbone(attn_impl='sdpa')(images)
    assert used == ['sdpa'] * 6
    assert all(map(torch.equal, outs, expected))
    chooser._measure.times = dict(eager=1.0, sdpa=3.0)
    used.clear()
    sum(out.sum() for out in backbone(images)).backward()  # another direction
    assert used == ['eager'] * 3
    assert [call[1] for call in chooser._measure.calls] == [False, True]


@pytest.mark.parametrize('version', [1, 2])
def test_checkpoints_compute_the_same_anew(chooser, used, version):
    """The measurement lies within the first of them, and saves no tensor of theirs."""
    chooser._measure = measuring.measure
    images = torch.randn(1, 3, 40, 40)
    arch = dict(ARCH, version=version)
    grads = []
    for with_cp in (True, False):
        torch.manual_seed(0)
        backbone = SwinBackbone(arch=arch, drop_path_rate=0.0, out_indices=(0, 1), with_cp=with_cp)
        sum(out.square().sum() for out in backbone(images)).backward()
        grads.append([p.grad for p in backbone.parameters()])
    assert len(used) == 9 and len(set(used)) == 1  # forward, anew, and without checkpoints
    assert all(map(torch.equal, *grads))


def test_dropout_and_tracing_take_the_default(chooser, used):
    images = torch.randn(1, 3, 40, 40)
    make_backbone(attn_drop_rate=0.1)(images)
    torch.jit.trace(make_backbone().eval(), images, check_trace=False)
    assert set(used) == {'eager'}
    assert chooser._measure.calls == []


# Ranks


def agree_on_rank(rank, folder):
    """Ranks whose clocks disagree, with images of sizes that the other has not."""
    clock = Clock(eager=3.0, sdpa=1.0) if rank == 0 else Clock(eager=1.0, sdpa=3.0)
    chooser = Choices(folder / 'choices.json', clock)
    found = {}
    if rank == 1:
        found['own'] = choose(chooser, problem_of(dtype=torch.float16))  # rank 0 never meets it
        time.sleep(1)  # rank 0 does not wait here
    found['both'] = choose(chooser, problem_of())
    found['measured'] = len(clock.calls)
    choices.LARGE_ON_CPU = 0
    backbone = make_backbone(attn_impl='auto')
    wrapped = torch.nn.parallel.DistributedDataParallel(backbone)
    size = (40, 40) if rank == 0 else (33, 61)
    sum(out.sum() for out in wrapped(torch.randn(1, 3, *size))).backward()
    found['grad'] = backbone.patch_embed.projection.weight.grad
    found['chosen'] = list(choices.shared_choices()._made.values())
    return found


def test_ranks_agree_without_waiting(tmp_path):
    first, second = run_on_two_ranks(agree_on_rank, tmp_path)
    assert first['both'] == second['both'] == 'sdpa'
    assert second['own'] == 'eager'
    assert (first['measured'], second['measured']) == (1, 1)
    assert first['chosen'] == second['chosen']
    assert torch.equal(first['grad'], second['grad'])
    (written,) = json.loads((tmp_path / 'choices.json').read_text())['choices']
    assert written['dtype'] == 'float32'  # of the main process
