"""Multi-scale deformable attention (Zhu et al., https://arxiv.org/abs/2010.04159).

Shapes: value (B, sum of H*W, heads, D), spatial_shapes (levels, 2) of (H, W), sampling_locations
(B, Q, heads, levels, points, 2) of (x, y) in [0, 1], attention_weights (B, Q, heads, levels,
points). Levels are handled one after the other: the samples of all of them would take
B * Q * heads * levels * points * D floats at once, and backward twice that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import kernel_dtype


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attended values (B, Q, heads * D)."""
    levels = _levels(value, spatial_shapes, sampling_locations, attention_weights)
    output = sum(_attend(shape, *tensors) for shape, _, tensors in levels)
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the gradients of the three inputs from grad_output (B, Q, heads * D)."""
    grad_output = grad_output.to(kernel_dtype(value))
    levels = _levels(value, spatial_shapes, sampling_locations, attention_weights)
    for level, (shape, pixels, tensors) in enumerate(levels):
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        with torch.enable_grad():
            output = _attend(shape, *tensors)
        grads = torch.autograd.grad(output, tensors, grad_output)
        grad_value[:, pixels] = grads[0].to(grad_value)
        # A sample exactly one pixel outside has the value 0 and, by continuity, either derivative:
        # `grid_sample` takes that towards the first pixel, mmcv that of the outside.
        size = grads[1].new_tensor([shape[1], shape[0]])  # of (x, y)
        position = tensors[1].detach() * size - 0.5
        inside = ((position > -1) & (position < size)).all(dim=-1, keepdim=True)
        grad_sampling_loc[:, :, :, level] = (grads[1] * inside).to(grad_sampling_loc)
        grad_attn_weight[:, :, :, level] = grads[2].to(grad_attn_weight)


def _levels(
    value: Tensor, spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
):
    """Per level: (H, W), its slice of value's dim 1, and its (value, locations, weights)."""
    dtype, start = kernel_dtype(value), 0
    for level, (height, width) in enumerate(spatial_shapes.tolist()):
        pixels = slice(start, start + height * width)
        start = pixels.stop
        yield (
            (height, width),
            pixels,
            (
                value[:, pixels].to(dtype),
                sampling_locations[:, :, :, level].to(dtype),
                attention_weights[:, :, :, level].to(dtype),
            ),
        )


def _attend(shape: tuple[int, int], value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, dim = value.shape
    queries = locations.size(1)
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, dim, *shape)
    grid = 2 * locations.transpose(1, 2).flatten(0, 1) - 1  # (B * heads, Q, points, 2)
    samples = F.grid_sample(
        maps, grid, mode='bilinear', padding_mode='zeros', align_corners=False
    )  # (B * heads, D, Q, points)
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * heads, 1, Q, points)
    attended = (samples * weights).sum(dim=-1)  # (B * heads, D, Q)
    return attended.view(batch, heads * dim, queries).transpose(1, 2)
