"""Deformable convolution (https://arxiv.org/abs/1703.06211), v2 (https://arxiv.org/abs/1811.11168).

mmcv and torchvision lay out offsets and masks alike. mmcv's scratch buffers (columns, ones) and
im2col_step, which only bound memory, are not needed.
"""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .precision import kernel_dtype


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill output (N, C_out, H_out, W_out), see :class:`mmcv.ops.DeformConv2d`."""
    settings = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, settings))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill gradInput and gradOffset."""
    settings = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, None, settings)
    gradInput.copy_(grads['input'])
    gradOffset.copy_(grads['offset'])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient to gradWeight."""
    settings = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The gradient of a weight does not depend on the weight, which mmcv does not pass.
    grads = _backward(gradOutput, input, torch.zeros_like(gradWeight), offset, None, None, settings)
    gradWeight.add_(grads['weight'].to(gradWeight), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill output (N, C_out, H_out, W_out), see :class:`mmcv.ops.ModulatedDeformConv2d`."""
    settings = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, settings))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill grad_input, grad_weight, grad_offset, grad_mask and, with_bias, grad_bias."""
    settings = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    grads = _backward(
        grad_output, input, weight, offset, mask, bias if with_bias else None, settings
    )
    grad_input.copy_(grads['input'])
    grad_weight.copy_(grads['weight'])
    grad_offset.copy_(grads['offset'])
    grad_mask.copy_(grads['mask'])
    if with_bias:
        grad_bias.copy_(grads['bias'])


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: tuple[int, ...],
) -> Tensor:
    tensors = _kernel_tensors(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*tensors, *settings, mask is not None)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: tuple[int, ...],
) -> dict[str, Tensor]:
    tensors = _kernel_tensors(input, weight, offset, mask, bias)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        grad_output.to(tensors[0].dtype), *tensors, *settings, mask is not None
    )
    grads = dict(zip(('input', 'weight', 'offset', 'mask', 'bias'), grads))
    # A sample at exactly -1 has the value 0 and, by continuity, either derivative. torchvision
    # takes that towards the first pixel, mmcv that of the outside
    # (dmcn_get_coordinate_weight of modulated_deform_conv_cuda_kernel.cuh).
    outside = ~_is_inside(input, weight, tensors[2], settings)
    grads['offset'] = grads['offset'].masked_fill(outside, 0)
    return grads


def _is_inside(input: Tensor, weight: Tensor, offset: Tensor, settings: tuple[int, ...]) -> Tensor:
    """Whether samples are between -1 and the size of the map, exclusively, both (y, x).

    Args:
        offset: (N, groups * kernel height * kernel width * 2, H_out, W_out), in the dtype of the
            kernel, which has the same positions.
        settings: As of torchvision's kernel.

    Returns:
        Of the shape of `offset`; the two entries of a sample are equal.
    """
    strides, pads, dilations = settings[0:2], settings[2:4], settings[4:6]
    kernel, sizes_out = weight.shape[2:], offset.shape[2:]
    points = offset.view(len(offset), -1, *kernel, 2, *sizes_out)
    inside = torch.ones((), dtype=torch.bool, device=offset.device)
    for axis in range(2):
        tap = torch.arange(kernel[axis], device=offset.device) * dilations[axis]
        start = torch.arange(sizes_out[axis], device=offset.device) * strides[axis] - pads[axis]
        # (kernel height, kernel width, H_out, W_out), two of them 1
        base = tap.view((-1, 1) if axis == 0 else (1, -1))[..., None, None]
        base = base + start.view((-1, 1) if axis == 0 else (1, -1))
        position = base + points[:, :, :, :, axis]
        inside = inside & (position > -1) & (position < input.shape[2 + axis])
    return inside[:, :, :, :, None].expand_as(points).reshape(offset.shape)


def _kernel_tensors(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """In the order and dtype of torchvision's kernel, which takes dummies for what is missing."""
    mask = input.new_zeros(input.size(0), 1) if mask is None else mask
    bias = input.new_zeros(weight.size(0)) if bias is None else bias
    return [tensor.to(kernel_dtype(input)) for tensor in (input, weight, offset, mask, bias)]
