"""Pooling of feature maps (B, C, H, W) inside RoIs (K, 5) = (image index, x1, y1, x2, y2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .precision import kernel_dtype

MAX_POOL = 0  # mmcv's pool_mode; 1 is average pooling


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill output (K, C, aligned_height, aligned_width), see :class:`mmcv.ops.RoIAlign`.

    argmax_y and argmax_x, of the same shape, are filled in max pooling only: the feature map
    coordinates of the largest sample of a bin, -1 where a bin has no sample.
    """
    dtype = kernel_dtype(input)
    features, rois = input.to(dtype), rois.to(dtype)
    if aligned and not rois.is_cuda and (rois[:, 3:] < rois[:, 1:3]).any():
        raise ValueError(
            'RoIAlign with aligned=True needs RoIs with x2 >= x1 and y2 >= y1, got '
            f'{rois[(rois[:, 3:] < rois[:, 1:3]).any(dim=1)][0].tolist()}'
        )
    size = (aligned_height, aligned_width)
    if pool_mode != MAX_POOL:
        output.copy_(
            torch.ops.torchvision.roi_align(
                features, rois, spatial_scale, *size, sampling_ratio, aligned
            )
        )
        return

    # Sampled at one point per bin of a grid that is finer by the number of samples per bin, and
    # then max pooled: one call of each per number of samples (rows, columns) in a bin.
    start, bin_size = _bins(rois, size, spatial_scale, aligned)
    samples = torch.full_like(bin_size, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil()
    output.fill_(-10000)
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    for rows, columns in samples.long().clamp(min=0).unique(dim=0).tolist():
        if rows * columns == 0:
            continue
        chosen = ((samples[:, 0] == rows) & (samples[:, 1] == columns)).nonzero()[:, 0]
        sampled = torch.ops.torchvision.roi_align(
            features, rois[chosen], spatial_scale, size[0] * rows, size[1] * columns, 1, aligned
        )
        largest, index = F.max_pool2d(sampled, (rows, columns), return_indices=True)
        step = bin_size[chosen] / bin_size.new_tensor([rows, columns])
        y = index.div(size[1] * columns, rounding_mode='floor') + 0.5
        x = index.remainder(size[1] * columns) + 0.5
        output[chosen] = largest.to(output)
        argmax_y[chosen] = (
            start[chosen, 0].view(-1, 1, 1, 1) + y * step[:, 0].view(-1, 1, 1, 1)
        ).to(argmax_y)
        argmax_x[chosen] = (
            start[chosen, 1].view(-1, 1, 1, 1) + x * step[:, 1].view(-1, 1, 1, 1)
        ).to(argmax_x)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill grad_input (B, C, H, W) from grad_output (K, C, aligned_height, aligned_width)."""
    dtype = kernel_dtype(grad_output)
    grad, rois = grad_output.to(dtype), rois.to(dtype)
    if pool_mode != MAX_POOL:
        grad_input.copy_(
            torch.ops.torchvision._roi_align_backward(
                grad,
                rois,
                spatial_scale,
                aligned_height,
                aligned_width,
                *grad_input.shape,
                sampling_ratio,
                aligned,
            )
        )
        return

    height, width = grad_input.shape[2:]
    y, x = argmax_y.to(dtype), argmax_x.to(dtype)
    grad = grad * ((y != -1) & (y >= -1) & (y <= height) & (x >= -1) & (x <= width))
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    below, right = y - top, x - left
    bottom, rightmost = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    summed = torch.zeros_like(grad_input, dtype=dtype)
    for row, column, weight in (
        (top, left, (1 - below) * (1 - right)),
        (top, rightmost, (1 - below) * right),
        (bottom, left, below * (1 - right)),
        (bottom, rightmost, below * right),
    ):
        _add_to_pixels(summed, rois, row.long() * width + column.long(), grad * weight)
    grad_input.copy_(summed)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill output and argmax (K, C, pooled_height, pooled_width), see :class:`mmcv.ops.RoIPool`.

    A bin holds every pixel that it touches, without the rounding of RoIs to whole pixels that
    torchvision's RoIPool does. argmax is the index row * W + column of the largest pixel of a bin,
    -1 where a bin has no pixel.
    """
    dtype = kernel_dtype(input)
    height, width = input.shape[2:]
    boxes = rois[:, 1:].to(dtype)
    corner = boxes[:, :2] * spatial_scale
    extent = (boxes[:, 2:] + 1) * spatial_scale - corner
    left, right = _touched_pixels(corner[:, 0], extent[:, 0], pooled_width, width)  # (K, pw)
    top, bottom = _touched_pixels(corner[:, 1], extent[:, 1], pooled_height, height)  # (K, ph)
    empty = (bottom <= top)[:, :, None] | (right <= left)[:, None, :]  # (K, ph, pw)
    empty |= (extent <= 0).any(dim=1)[:, None, None]
    most_rows = (bottom - top).clamp(min=1).amax(dim=1).tolist() if len(rois) else []
    most_columns = (right - left).clamp(min=1).amax(dim=1).tolist() if len(rois) else []
    images = rois[:, 0].long().tolist()
    for k, (image, rows, columns) in enumerate(zip(images, most_rows, most_columns)):
        # Bins of fewer pixels than the largest repeat their last row or column.
        row = torch.minimum(
            top[k, :, None] + torch.arange(rows, device=input.device), bottom[k, :, None] - 1
        ).clamp(min=0)  # (ph, rows)
        column = torch.minimum(
            left[k, :, None] + torch.arange(columns, device=input.device), right[k, :, None] - 1
        ).clamp(min=0)  # (pw, columns)
        pixel = (row[:, None, :, None] * width + column[None, :, None, :]).flatten(2)
        in_bin = input[image].flatten(1)[:, pixel]  # (C, ph, pw, rows * columns)
        largest = in_bin.argmax(dim=-1, keepdim=True)
        output[k] = in_bin.gather(-1, largest)[..., 0]
        argmax[k] = pixel.expand_as(in_bin).gather(-1, largest)[..., 0]
    output.masked_fill_(empty[:, None], 0)
    argmax.masked_fill_(empty[:, None], -1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill grad_input (B, C, H, W) from grad_output (K, C, pooled_height, pooled_width)."""
    summed = torch.zeros_like(grad_input, dtype=kernel_dtype(grad_output))
    grad = grad_output.to(summed.dtype) * (argmax >= 0)
    _add_to_pixels(summed, rois, argmax.long().clamp(min=0), grad)
    grad_input.copy_(summed)


def _bins(
    rois: Tensor, size: tuple[int, int], spatial_scale: float, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Start (K, 2) of the RoIs and size (K, 2) of their bins, (y, x) in feature map pixels."""
    shift = 0.5 if aligned else 0.0
    start = rois[:, [2, 1]] * spatial_scale - shift
    extent = rois[:, [4, 3]] * spatial_scale - shift - start
    if not aligned:
        extent = extent.clamp(min=1)
    return start, extent / extent.new_tensor(size)


def _touched_pixels(corner: Tensor, extent: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """First and one past the last pixel (K, bins) that the bins of RoIs touch along one axis."""
    edges = torch.arange(bins + 1, device=corner.device, dtype=corner.dtype)
    edges = edges * (extent / bins)[:, None] + corner[:, None]
    first = edges[:, :-1].floor().clamp(0, limit).long()
    return first, edges[:, 1:].ceil().clamp(0, limit).long()


def _add_to_pixels(summed: Tensor, rois: Tensor, pixel: Tensor, values: Tensor) -> None:
    """Add values to summed (B, C, H, W) at the pixels row * W + column, both (K, C, h, w)."""
    channels, area = summed.shape[1], summed.shape[2] * summed.shape[3]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    index = plane[:, :, None, None] * area + pixel
    summed.view(-1).scatter_add_(0, index.flatten(), values.flatten())
