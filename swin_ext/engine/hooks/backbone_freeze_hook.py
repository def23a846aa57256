"""Freezes parts of a model, and thaws them on a schedule."""

from __future__ import annotations

import difflib
import fnmatch

from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from swin_ext.engine.errors import SettingError, SettingTypeError

NUM_LISTED = 5  # names given in a message


@HOOKS.register_module()
class BackboneFreezeHook(Hook):
    """Keep parameters as they are for as long as a schedule says.

    Gradual unfreezing (Howard and Ruder, https://arxiv.org/abs/1801.06146) of a `SwinBackbone`,
    or of any other model by the names of its parameters. Frozen parameters get no gradient, no
    weight decay and no share in the clipped norm; their modules (norm, dropout, drop path) stay in
    evaluation mode. All of them are in the optimizer from the start, with the options that
    `paramwise_cfg` gives them, so that they follow the learning rate schedule while they are
    frozen; once thawed, their momenta start from zero. A `DistributedDataParallel` is built anew at
    each change, for it must know which gradients to wait for.

    What is frozen depends on the schedule and the number of the iteration or epoch alone, so a
    resumed run goes on as the interrupted one would have.

    With `frozen_stages`, the schedule replaces that of the model's config from the first iteration
    on. With `patterns`, the model's config must freeze no stages itself; what else it freezes
    (batch norms with `requires_grad=False`) is never thawed.

    Args:
        schedule: What is frozen from when on: dicts with `at`, the iterations or epochs done by
            then (0 for the first entry, then rising), and one of

            - `frozen_stages`: as the argument of `SwinBackbone`; -1 for nothing;
            - `patterns`: shell-style patterns of parameter names, like 'backbone.layer1.*', where
              `*` matches dots too; an empty list for nothing.
        by_epoch: Whether `at` counts epochs. A change that falls amid an accumulation of gradients
            takes effect with the next one.

    Raises:
        SettingError: If the schedule is not as described, the model has no such stages, a pattern
            matches no parameter, nothing would be left to train, or what is to be thawed is not in
            the optimizer.
        SettingTypeError: If the model is wrapped in another than an `MMDistributedDataParallel`.

    Example:
        >>> custom_hooks = [dict(
        ...     type='BackboneFreezeHook',
        ...     schedule=[
        ...         dict(at=0, frozen_stages=4),
        ...         dict(at=1000, frozen_stages=2),
        ...         dict(at=3000, frozen_stages=-1)])]
    """

    priority = 'VERY_HIGH'

    def __init__(self, schedule: list[dict], by_epoch: bool = False):
        check_schedule(schedule)
        self.schedule = list(schedule)
        self.by_epoch = by_epoch
        self._frozen = None  # names of parameters, for each entry of the schedule
        self._learners = None  # names of all that this hook freezes or thaws
        self._current = None  # index into the schedule
        self._in_eval = []  # modules that are frozen as a whole

    def before_build_optim_wrapper(self, runner: Runner) -> None:
        """Thaw everything: mmengine leaves parameters out that are frozen by then.

        An event of `SwinExtRunner`.
        """
        self._resolve(runner.model)

    def before_train(self, runner: Runner) -> None:
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise SettingError(
                'BackboneFreezeHook: by_epoch=True needs a train loop that counts '
                f'epochs, but train_cfg.type is {type(runner.train_loop).__name__}. '
                'Give `at` in iterations and set by_epoch=False.'
            )
        self._resolve(runner.model)
        self._check_optimizer(runner)
        length = runner.max_epochs if self.by_epoch else runner.max_iters
        for entry in self.schedule:
            if entry['at'] >= length:
                runner.logger.warning(
                    f'BackboneFreezeHook: {entry} never takes effect, for training ends at '
                    f'{"epoch" if self.by_epoch else "iteration"} {length}.'
                )
        self._apply(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if self._index_now(runner) != self._current:
            self._apply(runner)

        self._keep_in_eval()

    def after_train_mode(self, runner: Runner) -> None:
        """An event of this package's train loops, which compute iterations anew on resuming."""
        self._keep_in_eval()

    def _index_now(self, runner) -> int:
        # Of the iteration that the gradients of this update begin with: all of them are of the
        # same parameters, also where a resumed run computes them anew.
        done = runner.iter - runner.iter % getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if self.by_epoch:
            done //= runner.max_iters // runner.max_epochs
        return sum(entry['at'] <= done for entry in self.schedule) - 1

    def _resolve(self, model: nn.Module) -> None:
        """Find the parameters of each entry, once, and leave all of them trainable."""
        if self._frozen is not None:
            return
        if is_model_wrapper(model) and not isinstance(model, MMDistributedDataParallel):
            raise SettingTypeError(
                'BackboneFreezeHook: the model must be wrapped in an '
                'MMDistributedDataParallel, which is built anew at each change, but '
                f'model_wrapper_cfg.type is {type(model).__name__}.'
            )
        model = unwrap(model)
        find = frozen_by_stages if 'frozen_stages' in self.schedule[0] else frozen_by_patterns
        frozen = find(model, self.schedule)
        self._learners = {name for name, p in model.named_parameters() if p.requires_grad}
        for entry, names in zip(self.schedule, frozen):
            if self._learners <= names:
                raise SettingError(
                    f'BackboneFreezeHook: {entry} freezes all parameters of the '
                    'model and leaves nothing to train.'
                )
        self._frozen = frozen

    def _check_optimizer(self, runner) -> None:
        groups = runner.optim_wrapper.optimizer.param_groups
        optimized = {id(parameter) for group in groups for parameter in group['params']}
        to_train = self._learners - set.intersection(*self._frozen)
        missing = [
            name
            for name, parameter in unwrap(runner.model).named_parameters()
            if name in to_train and id(parameter) not in optimized
        ]
        if missing:
            raise SettingError(
                f'BackboneFreezeHook: {len(missing)} parameters that are to be trained are not in '
                f'the optimizer, e.g. {", ".join(missing[:NUM_LISTED])}: the config of the model '
                "had frozen them when it was built. Set runner_type='SwinExtRunner' in the config, "
                'or frozen_stages=-1 in that of the model.'
            )

    def _apply(self, runner) -> None:
        """Freeze and thaw as the schedule says for now."""
        self._current = self._index_now(runner)
        entry, frozen = self.schedule[self._current], self._frozen[self._current]
        model, optimizer = unwrap(runner.model), runner.optim_wrapper.optimizer
        if 'frozen_stages' in entry:
            model.backbone.set_frozen_stages(entry['frozen_stages'])
        for name, parameter in model.named_parameters():
            if name in self._learners:
                parameter.requires_grad_(name not in frozen)
            if name in frozen:
                parameter.grad = None
                optimizer.state.pop(parameter, None)  # stale by the time it is thawed
        rebuild_reducer(runner)
        model.train(model.training)
        # A backbone with stages sees to it itself.
        self._in_eval = outermost_modules_of(model, frozen) if 'patterns' in entry else []
        self._keep_in_eval()

        counts = {True: 0, False: 0}
        for parameter in model.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        what = ', '.join(f'{key}={value}' for key, value in entry.items() if key != 'at')
        now = f'epoch {runner.epoch}' if self.by_epoch else f'iteration {runner.iter}'
        runner.logger.info(
            f'BackboneFreezeHook: {what} from {now} on: {counts[True]:,} parameters '
            f'trainable, {counts[False]:,} frozen.'
        )

    def _keep_in_eval(self) -> None:
        # Train loops call model.train() at any time: each epoch, iteration, or after validation.
        for module in self._in_eval:
            if module.training:
                module.eval()


def check_schedule(schedule: list[dict]) -> None:
    """Refuse a schedule that does not say what is frozen, or from when on.

    Raises:
        SettingError: With the entry that is wrong.
    """
    if not isinstance(schedule, (list, tuple)) or not schedule:
        raise SettingError(
            'BackboneFreezeHook: schedule must be a list of dicts like dict(at=0, '
            f'frozen_stages=2), but is {schedule!r}.'
        )
    for entry in schedule:
        keys = set(entry) if isinstance(entry, dict) else None
        if keys not in ({'at', 'frozen_stages'}, {'at', 'patterns'}):
            raise SettingError(
                'BackboneFreezeHook: an entry of the schedule must have the keys at '
                f'and either frozen_stages or patterns, but is {entry!r}.'
            )
        if keys != set(schedule[0]):
            raise SettingError(
                'BackboneFreezeHook: the schedule must say what is frozen in one way, '
                f'but has {schedule[0]!r} and {entry!r}.'
            )
        if not isinstance(entry['at'], int) or entry['at'] < 0:
            raise SettingError(
                'BackboneFreezeHook: at must be a number of iterations or epochs, 0 '
                f'or more, but the schedule has {entry!r}.'
            )
        patterns = entry.get('patterns', [])
        if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
            raise SettingError(
                'BackboneFreezeHook: patterns must be a list of strings, but the '
                f'schedule has {entry!r}.'
            )
    if schedule[0]['at'] != 0:
        raise SettingError(
            'BackboneFreezeHook: the schedule must begin with at=0, but begins with '
            f'{schedule[0]!r}.'
        )
    for before, after in zip(schedule, schedule[1:]):
        if before['at'] >= after['at']:
            raise SettingError(
                'BackboneFreezeHook: at must rise along the schedule, but '
                f'{after!r} follows {before!r}.'
            )


def frozen_by_stages(model: nn.Module, schedule: list[dict]) -> list[set[str]]:
    """Names of the parameters that each `frozen_stages` freezes; all are trainable afterwards.

    Raises:
        SettingError: If the backbone has no stages that can be set, or fewer.
    """
    backbone = getattr(model, 'backbone', None)
    if not hasattr(backbone, 'set_frozen_stages'):
        raise SettingError(
            'BackboneFreezeHook: frozen_stages needs model.backbone to be a SwinBackbone, but it '
            f'is a {type(backbone).__name__}. Give parameter names instead, e.g. '
            "patterns=['backbone.layer1.*']."
        )
    frozen = []
    for entry in schedule:
        backbone.set_frozen_stages(entry['frozen_stages'])
        frozen.append(
            {
                f'backbone.{name}'
                for name, parameter in backbone.named_parameters()
                if not parameter.requires_grad
            }
        )
    backbone.set_frozen_stages(-1)
    return frozen


def frozen_by_patterns(model: nn.Module, schedule: list[dict]) -> list[set[str]]:
    """Names of the parameters that match the `patterns` of each entry.

    Raises:
        SettingError: If a pattern matches none, or the model freezes stages itself.
    """
    for name, module in model.named_modules():
        # Such backbones freeze them again whenever model.train() is called.
        if getattr(module, 'frozen_stages', -1) >= 0:
            raise SettingError(
                f'BackboneFreezeHook: {name} ({type(module).__name__}) has frozen_stages='
                f'{module.frozen_stages}. Set it to -1 in the config of the model: the patterns '
                'must name all that is frozen.'
            )
    names = [name for name, _ in model.named_parameters()]
    frozen = []
    for entry in schedule:
        frozen.append(set())
        for pattern in entry['patterns']:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                raise SettingError(
                    f'BackboneFreezeHook: the pattern {pattern!r} matches no '
                    f'parameter. {nearest(pattern, names)}'
                )
            frozen[-1].update(matched)
    return frozen


def nearest(pattern: str, names: list[str]) -> str:
    """Say which modules or parameters have names like `pattern`."""
    parts = [name.split('.') for name in names]
    known = {'.'.join(part[:length]) for part in parts for length in range(1, len(part) + 1)}
    close = difflib.get_close_matches(pattern.rstrip('.*'), sorted(known), n=NUM_LISTED)
    if close:
        return f'Close to it are: {", ".join(close)}.'
    return f'Parts of the model are: {", ".join(sorted({part[0] for part in parts}))}.'


def outermost_modules_of(model: nn.Module, parameters: set[str]) -> list[nn.Module]:
    """Modules all of whose parameters are among those named, but for modules inside of such."""
    named = {parameter for name, parameter in model.named_parameters() if name in parameters}
    outermost, inside = [], set()
    for module in model.modules():  # from the outside to the inside
        own = set(module.parameters())
        if own and own <= named and module not in inside:
            outermost.append(module)
            inside.update(module.modules())
    return outermost


def unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def rebuild_reducer(runner: Runner) -> None:
    """Wrap the model anew, where it is wrapped.

    A `DistributedDataParallel` waits for the gradients of the parameters that were trainable when
    it was made, and reduces no others.
    """
    if is_model_wrapper(runner.model):
        # Let go of the old one first: its buckets are as large as all gradients.
        runner.model = runner.model.module
        runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), runner.model)
        runner._maybe_compile('train_step')
