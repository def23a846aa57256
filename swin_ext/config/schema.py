"""The top-level keys of a config."""

# ruff: noqa: UP007, UP045 -- pydantic evaluates annotations, and Python 3.9 has no X | None
from __future__ import annotations

from typing import Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt

from swin_ext.config.untyped import NotNegative, Positive


class RunConfig(BaseModel):
    """What a runner, a script or this package reads of a config.

    Other names are variables that a config file defines for itself.
    """

    model_config = ConfigDict(extra='allow', arbitrary_types_allowed=True)

    # Said once, handed on to all places that depend on it: swin_ext.config.shared_values, families
    data_root: Optional[str] = None
    image_scale: Optional[tuple[Positive, Positive]] = None
    annotation_index: Union[StrictBool, str, None] = None  # `index` of each CMRDataset
    num_classes: Optional[Positive] = None
    num_things_classes: Optional[NotNegative] = None
    num_stuff_classes: Optional[NotNegative] = None
    max_epochs: Optional[Positive] = None
    max_iters: Optional[Positive] = None
    extend_schedule: StrictBool = False  # of SwinExtRunner
    sync_avg_factor: StrictBool = False  # of SwinExtRunner
    channels_last: StrictBool = False  # of SwinExtRunner
    compile_backbone: Union[StrictBool, dict] = False  # of SwinExtRunner
    inherited: Optional[dict] = None  # what was handed on, for the next time

    # mmengine.runner.Runner
    model: Any = None
    work_dir: Optional[str] = None
    train_dataloader: Any = None
    val_dataloader: Any = None
    test_dataloader: Any = None
    train_cfg: Optional[dict] = None
    val_cfg: Optional[dict] = None
    test_cfg: Optional[dict] = None
    auto_scale_lr: Optional[dict] = None
    optim_wrapper: Any = None
    param_scheduler: Any = None
    val_evaluator: Any = None
    test_evaluator: Any = None
    default_hooks: Optional[dict] = None
    custom_hooks: Optional[list] = None
    data_preprocessor: Any = None
    load_from: Optional[str] = None
    resume: StrictBool = False
    launcher: Literal['none', 'pytorch', 'slurm', 'mpi'] = 'none'
    env_cfg: Optional[dict] = None
    log_processor: Optional[dict] = None
    log_level: Union[StrictInt, str] = 'INFO'
    visualizer: Any = None
    default_scope: Optional[str] = None
    randomness: Optional[dict] = None
    experiment_name: Optional[str] = None
    runner_type: Optional[str] = None
    model_wrapper_cfg: Optional[dict] = None
    compile: Union[StrictBool, dict, None] = None
    cudnn_benchmark: Any = None
    find_unused_parameters: Optional[StrictBool] = None
    sync_bn: Optional[Literal['torch', 'mmcv']] = None

    # scripts of MMDetection and MMSegmentation
    custom_imports: Optional[dict] = None
    tta_model: Optional[dict] = None
    tta_pipeline: Any = None
    fp16: Any = None


# Names that configs of MMDetection and MMSegmentation use for variables of theirs, and that would
# be taken for slips of a key.
VARIABLES = frozenset(
    'train_pipeline test_pipeline val_pipeline dataset_type vis_backends img_scale img_scales '
    'image_size'.split()
)
