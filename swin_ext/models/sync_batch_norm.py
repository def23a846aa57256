"""Batch norm over the images of all ranks on a CPU, where that of PyTorch is for GPUs alone."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class CPUSyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm` in plain operators, for tensors (B, C, ...) of any shape.

    Parameters, buffers and their names are those of `torch.nn.SyncBatchNorm`. The mean comes first
    and the squares of the differences to it next, for precision: two exchanges of C numbers.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f'expected (B, C, ...), but got {tuple(input.shape)}')

    def forward(self, input: Tensor) -> Tensor:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        own = input.new_full((1,), float(input.numel() // input.shape[1]))
        sums = all_reduce(torch.cat([input.sum(dims), own]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = input - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach() * count / (count - 1))
        normed = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def on_cpu(module: nn.Module) -> nn.Module:
    """Put a `CPUSyncBatchNorm` in the place of each `torch.nn.SyncBatchNorm`.

    Parameters and buffers stay the same objects.

    Returns:
        `module`, changed in place, unless it is such a norm itself.
    """
    if isinstance(module, nn.SyncBatchNorm):
        norm = CPUSyncBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        norm._parameters.update(module._parameters)
        norm._buffers.update(module._buffers)
        return norm.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, on_cpu(child))
    return module
