"""Record what compiled mmcv computes for the cases of op_cases.py.

    python tests/test_mmcv_ext/make_golden.py

in an environment with mmcv 2.1.0 built with its ops (``MMCV_WITH_OPS=1``). Recorded with mmcv
2.1.0, built for the CPU with PyTorch 2.11.

mmcv has no CPU kernels for roi_pool, sigmoid_focal_loss, softmax_focal_loss and ms_deform_attn:
test_ops_closed_form.py holds those against torchvision, mmcv's own PyTorch formula of deformable
attention, or loops written from the definition, and with torch.autograd.gradcheck.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES

import mmcv
import mmcv._ext
import numpy as np
from op_cases import CASES, GOLDEN


def main() -> None:
    if not mmcv._ext.__file__.endswith(tuple(EXTENSION_SUFFIXES)) or mmcv.__version__ != '2.1.0':
        raise SystemExit(
            f'{mmcv._ext.__file__} of mmcv {mmcv.__version__} is not the compiled '
            'extension of mmcv 2.1.0: golden values come from nothing else'
        )
    arrays = {
        f'{case}/{name}': array for case, run in CASES.items() for name, array in run().items()
    }
    np.savez_compressed(GOLDEN, **arrays)
    print(f'{GOLDEN}: {len(CASES)} cases, {GOLDEN.stat().st_size / 1024:.0f} KiB')


if __name__ == '__main__':
    main()
