"""The Triton kernels: computed by the interpreter, compiled for GPUs that need not be there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swin_ext.models.attention import triton as implementation

pytest.importorskip('triton')
if not implementation.HAS_OPERATORS:
    pytest.skip('operators need PyTorch 2.4', allow_module_level=True)

CASES = Path(__file__).with_name('triton_cases.py')


def run_python(*arguments, **environment):
    """In a process of its own, as triton looks at the environment when it is imported."""
    environment = {**os.environ, 'SWIN_EXT_LIGHT': '1', **environment}
    paths = [*CASES.parents[2:4], environment.get('PYTHONPATH', '')]
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, map(str, paths)))
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f'{done.stdout[-6000:]}\n{done.stderr[-2000:]}'
    return done.stdout


@pytest.mark.parametrize(
    'interpret',
    [
        '1',
        pytest.param(
            '0',
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
        ),
    ],
)
@pytest.mark.parametrize(
    'mark, least', [('not slow', 40), pytest.param('slow', 3, marks=pytest.mark.slow)]
)
def test_kernels(interpret, mark, least):
    hide = {'CUDA_VISIBLE_DEVICES': ''} if interpret == '1' else {}
    arguments = ['-m', 'pytest', str(CASES), '-p', 'no:cacheprovider', '-m', mark]
    out = run_python(*arguments, TRITON_INTERPRET=interpret, **hide)
    (passed,) = re.findall(r'(\d+) passed', out)
    assert int(passed) >= least


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton.language as tl
from swin_ext.models.attention import triton_kernels, triton_launch

TYPES = dict(scale='fp32', strides=('i32',) * 3)
for pointer in ('padding', 'table', 'logit_scale', 'sums_bias', 'sums_padding', 'sums_scale'):
    TYPES[pointer] = '*fp32'


def compile_for(capability, direction, element, window, dim, cosine):
    kernel = getattr(triton_kernels, f'attention_{direction}')
    block_k, block_d = (max(16, triton.next_power_of_2(n)) for n in (window**2, dim))
    tiles = triton_launch.TILES[direction, block_k]
    constants = dict(
        ACC=tl.float32, COSINE=cosine, SHIFTED=True, HAS_PADDING=True, PRECISION='tf32',
        WINDOW=window, DIM=dim, BLOCK_Q=tiles.block_q, BLOCK_K=block_k, BLOCK_D=block_d,
        BLOCKS=-(-window**2 // tiles.block_q), WANT_QKV=True,
        WANT_BIAS=window**2 <= tiles.block_q,
    )
    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    types = dict(TYPES, **{name: '*' + element for name in ('qkv', 'out', 'grad_out', 'grad_qkv')})
    source = ASTSource(
        kernel,
        {name: 'constexpr' if name in constants else types.get(name, 'i32') for name in names},
        {(names.index(name),): value for name, value in constants.items()},
    )
    options = dict(num_warps=tiles.num_warps, num_stages=1)
    compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
    assert 'mma' in compiled.asm['ptx'], 'no tensor cores'
    print('shared', compiled.metadata.shared)


for case in CASES:
    compile_for(*case)
"""


@pytest.mark.parametrize(
    'cases, shared_kib',
    [
        pytest.param(
            [(90, d, 'bf16', 7, 32, False) for d in ('forward', 'backward')], 48, id='swin'
        ),
        pytest.param(
            [
                (capability, direction, element, window, dim, cosine)
                for capability in (80, 90)
                for direction in ('forward', 'backward')
                for element in ('fp16', 'bf16', 'fp32')
                for window, dim, cosine in [
                    (7, 32, False), (8, 64, True), (12, 32, False), (16, 32, True), (16, 64, True)
                ]
                if (element, window, dim) != ('fp32', 16, 64)  # is refused
            ],
            163,  # of an A100's multiprocessor
            id='all',
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_kernels_compile_for_gpus_and_fit_their_memory(cases, shared_kib, tmp_path):
    out = run_python(
        '-c', f'CASES = {cases!r}\n{COMPILE}', TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET='0'
    )
    shared = [int(n) for n in re.findall(r'shared (\d+)', out)]
    assert len(shared) == len(cases)
    assert max(shared) <= shared_kib * 2**10
