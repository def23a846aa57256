"""Parameter groups by learning rate and weight decay."""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from swin_ext.engine.errors import SettingError

NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build the optimizer with one group for each pair of learning rate and weight decay.

    Upstream's makes a group of each parameter, which optimizers work off one by one. Its
    `custom_keys` exclude each other and `norm_decay_mult`: a key 'backbone' with a `lr_mult` gives
    the norms inside of it weight decay again. Here, learning rate and decay do not depend on each
    other. All parameters are in the optimizer, also those that are frozen by now.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with that of the `optimizer`. It must have the
            `lr` and `weight_decay` that the groups are made of.
        paramwise_cfg: With the optional keys

            - `lr_mult`: factors of the learning rate by beginning of the parameters' names, e.g.
              `dict(backbone=0.1)`; of several that match, the longest counts;
            - `no_decay`: parts of the names of parameters without weight decay. Parameters of norms
              are without in any case.

    Raises:
        SettingError: If an option is unknown, or a name of `lr_mult` matches no parameter.
    """

    def _validate_cfg(self) -> None:
        paramwise_cfg = self.paramwise_cfg
        unknown = sorted(set(paramwise_cfg) - {'lr_mult', 'no_decay'})
        if unknown:
            raise SettingError(
                f'optim_wrapper.paramwise_cfg has {", ".join(unknown)}, but '
                'GroupedOptimWrapperConstructor knows lr_mult and no_decay only.'
            )
        for key, value in dict(lr=self.base_lr, weight_decay=self.base_wd).items():
            if value is None:
                raise SettingError(
                    f'Set optim_wrapper.optimizer.{key}: parameter groups get theirs from it.'
                )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = getattr(model, 'module', model)
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=self.param_groups(model)))
        return OPTIM_WRAPPERS.build(
            dict(dict(type='OptimWrapper'), **self.optim_wrapper_cfg),
            default_args=dict(optimizer=optimizer),
        )

    def param_groups(self, model: nn.Module) -> list[dict]:
        """Groups with `name`, `lr`, `weight_decay` and `params`; the highest rate comes first."""
        lr_mult = self.paramwise_cfg.get('lr_mult', {})
        no_decay = tuple(self.paramwise_cfg.get('no_decay', ()))
        of_norms = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, NORMS)
            for parameter in module.parameters(recurse=False)
        }
        members, used = {}, set()
        for name, parameter in model.named_parameters():
            prefixes = [prefix for prefix in lr_mult if name.startswith(prefix)]
            used.update(prefixes)
            prefix = max(prefixes, key=len, default=None)
            decays = id(parameter) not in of_norms and not any(part in name for part in no_decay)
            members.setdefault((prefix, decays), []).append(parameter)
        unused = sorted(set(lr_mult) - used)
        if unused:
            children = ', '.join(name for name, _ in model.named_children())
            raise SettingError(
                f'optim_wrapper.paramwise_cfg.lr_mult has {", ".join(unused)}, with '
                f'which no parameter begins. Parts of the model are: {children}.'
            )

        groups = []
        for (prefix, decays), parameters in members.items():
            groups.append(
                dict(
                    name=(prefix or 'rest') + ('' if decays else ', no decay'),
                    lr=self.base_lr * lr_mult.get(prefix, 1.0),
                    weight_decay=self.base_wd if decays else 0.0,
                    params=parameters,
                )
            )
        groups.sort(key=lambda group: -group['lr'])  # the log has the rate of the first
        for group in groups:
            print_log(
                'Parameter group "{name}": lr={lr:g}, weight_decay={weight_decay:g}, '.format(
                    **group
                )
                + f'{sum(p.numel() for p in group["params"]):,} parameters',
                'current',
            )
        return groups
