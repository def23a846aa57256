"""A training that some images spoil, and the same without the updates that are to be left out."""

from __future__ import annotations

import math

import torch
from mmengine.hooks import Hook

from toy_detector import ToyDetector, ToyImages, make_runner

# Ids are 100 to 115, in batches of four and their order: 105 is in iterations 2 and 6.
ADAMW = dict(type='AdamW', lr=0.01, weight_decay=0.1)


class Recorder(Hook):
    """Keeps weights and optimizer as they are after each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.weights, self.states = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = getattr(runner.model, 'module', runner.model)
        self.weights.append(parameters(model))
        state = runner.optim_wrapper.optimizer.state
        self.states.append(
            [value.clone() for p in model.parameters() for value in state.get(p, {}).values()]
        )


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def make_model(bad_losses):
    """Without batch norm and dropout: batches that were left out leave no trace in it."""
    model = ToyDetector(bad_losses=bad_losses)
    model.backbone.layer0 = torch.nn.Identity()
    return model


def train(work_dir, bad_losses, wrapper=None, hooks=(), limits=None, **kwargs):
    recorder = Recorder()
    runner = make_runner(
        work_dir,
        model=make_model(bad_losses),
        hooks=[dict(type='NonFiniteLossHook', **(limits or {})), recorder, *hooks],
        optim_wrapper=dict(optimizer=dict(ADAMW), **(wrapper or {})),
        **kwargs,
    )
    runner.train()
    return runner, recorder


def train_plainly(left_out, num_iters=8, accumulative_counts=1, factors=None):
    """Weights after each iteration of a training whose updates `left_out` are not made."""
    model = make_model(factors)
    options = dict(ADAMW)
    optimizer = getattr(torch.optim, options.pop('type'))(model.parameters(), **options)
    dataset, history = ToyImages(), []
    for step in range(num_iters):
        samples = [dataset[i] for i in range(step * 4 % 16, step * 4 % 16 + 4)]
        losses = model(
            torch.stack([sample['inputs'] for sample in samples]),
            [sample['data_samples'] for sample in samples],
            mode='loss',
        )
        (sum(losses.values()) / accumulative_counts).backward()
        if (step + 1) % accumulative_counts == 0:
            if step not in left_out:
                optimizer.step()
            optimizer.zero_grad()
        history.append(parameters(model))
    return history


def assert_same(own, expected):
    for mine, theirs in zip(own, expected):
        for name, tensor in theirs.items():
            torch.testing.assert_close(mine[name], tensor, rtol=1e-5, atol=1e-7)
    assert len(own) == len(expected)


class ScaledGradient(torch.autograd.Function):
    """Infinite, as that of a square root at zero, or times a factor."""

    @staticmethod
    def forward(ctx, x, factor=math.inf):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


def make_model_of_bad_gradients(bad_ids):
    """Its loss is finite, its gradients are not where an image of `bad_ids` is in the batch."""
    model = make_model({})
    forward, predict = model.forward, model.head.forward

    def forward_and_note(inputs, data_samples=None, mode='tensor'):
        bad = {sample.img_id for sample in data_samples} & set(bad_ids)
        model.head.forward = (lambda x: ScaledGradient.apply(predict(x))) if bad else predict
        return forward(inputs, data_samples, mode)

    model.forward = forward_and_note
    return model


def train_with_bad_gradients(work_dir, optimizer=ADAMW, **wrapper):
    """Infinite ones in iterations 2 and 6."""
    recorder = Recorder()
    runner = make_runner(
        work_dir,
        model=make_model_of_bad_gradients([105]),
        hooks=[dict(type='NonFiniteLossHook'), recorder],
        optim_wrapper=dict(optimizer=dict(optimizer), **wrapper),
    )
    runner.train()
    return runner, recorder
