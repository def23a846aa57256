"""Focal loss (Lin et al., https://arxiv.org/abs/1708.02002) and its closed-form gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import kernel_dtype

TINY = torch.finfo(torch.float32).tiny  # logarithms are taken of at least this


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill output (N, C) with the losses of logits (N, C) for targets (N,) in [0, C].

    C means background: negative for every class. weight (C,), or empty, weighs the rows by target.
    """
    num_classes = input.size(1)
    _check_target(target, num_classes)
    p = input.to(kernel_dtype(input)).sigmoid()
    positive = _one_hot(target, num_classes)
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log(),
        -(1 - alpha) * p**gamma * (1 - p).clamp(min=TINY).log(),
    )
    output.copy_(loss * _row_weight(weight, target)[:, None] if len(weight) else loss)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill grad_input (N, C) with the derivative of each loss by its logit."""
    p = input.to(kernel_dtype(input)).sigmoid()
    positive = _one_hot(target, input.size(1))
    log_p, log_not_p = p.clamp(min=TINY).log(), (1 - p).clamp(min=TINY).log()
    grad = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p),
        -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_not_p - p),
    )
    grad_input.copy_(grad * _row_weight(weight, target)[:, None] if len(weight) else grad)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill output (N,) with the losses of softmax probabilities (N, C) for targets (N,).

    Negative targets are ignored: loss 0. weight (C,), or empty, weighs the rows by target.
    """
    _check_target(target, input.size(1))
    p = _target_probability(input, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    if len(weight):
        loss = loss * _row_weight(weight, target)
    output.copy_(torch.where(target >= 0, loss, torch.zeros_like(loss)))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill grad_input (N, C) with the derivative of each row's loss by the row's logits."""
    p = _target_probability(input, target)
    # p * dloss/dp, buff in mmcv's wrapper
    scale = alpha * (
        gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=TINY).log() - (1 - p) ** gamma
    )
    if len(weight):
        scale = scale * _row_weight(weight, target)
    buff.copy_(torch.where(target >= 0, scale, torch.zeros_like(scale)))
    one_hot = _one_hot(target, input.size(1)).to(input.dtype)
    grad_input.copy_(buff[:, None] * (one_hot - input))


def _check_target(target: Tensor, num_classes: int) -> None:
    if target.numel() and target.max() > num_classes:
        raise ValueError(
            f'focal loss: target {int(target.max())} is larger than the number of '
            f'classes, {num_classes}'
        )


def _one_hot(target: Tensor, num_classes: int) -> Tensor:
    return target[:, None] == torch.arange(num_classes, device=target.device)


def _row_weight(weight: Tensor, target: Tensor) -> Tensor:
    return weight[target.clamp(min=0)]


def _target_probability(probabilities: Tensor, target: Tensor) -> Tensor:
    p = probabilities.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return p.to(kernel_dtype(probabilities))
