import torch
from torch import Tensor


def kernel_dtype(tensor: Tensor) -> torch.dtype:
    """float64 as it is, everything else in float32.

    torchvision has no bfloat16 kernels (and on the CPU no float16 ones), and box coordinates and
    summed gradients want more than the 8 to 11 bits of a 16-bit float anyway.
    """
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
