"""A runner that lets a config say its data folder, classes and epochs once."""
from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


@RUNNERS.register_module()
class SwinExtRunner(Runner):
    """Runner for configs with top-level `data_root`, `num_classes` and `max_epochs`.

    Variables of a text config are resolved before `--cfg-options` is merged, so a value given
    there would not reach the places that were written in terms of it. This runner hands them on
    once the config is complete: `data_root` to every data set that has none, `num_classes` to
    every part of the model that has one, `max_epochs` to the train loop and to schedulers that
    count `total_steps` in epochs.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> Runner:
        for split in ('train', 'val', 'test'):
            dataloader = cfg.get(f'{split}_dataloader')
            if dataloader and 'data_root' in cfg:
                set_data_root(dataloader.dataset, cfg.data_root)
        if 'num_classes' in cfg:
            set_num_classes(cfg.model, cfg.num_classes)
        if 'max_epochs' in cfg:
            cfg.train_cfg.max_epochs = cfg.max_epochs
            for scheduler in cfg.get('param_scheduler') or []:
                if 'total_steps' in scheduler and scheduler.get('by_epoch', True):
                    scheduler.total_steps = cfg.max_epochs
        return super().from_cfg(cfg)


def set_data_root(dataset: dict, data_root: str) -> None:
    """Give `data_root` to a data set config, or to those inside a wrapper, that has none."""
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    for child in inner:
        set_data_root(child, data_root)
    if not inner:
        dataset.setdefault('data_root', data_root)


def set_num_classes(model, num_classes: int) -> None:
    """Replace each `num_classes` inside a model config."""
    if isinstance(model, dict):
        for key, value in model.items():
            if key == 'num_classes':
                model[key] = num_classes
            else:
                set_num_classes(value, num_classes)
    elif isinstance(model, (list, tuple)):
        for value in model:
            set_num_classes(value, num_classes)
