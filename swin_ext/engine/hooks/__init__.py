from swin_ext.engine.hooks.adapt_checkpoint_hook import AdaptCheckpointHook
from swin_ext.engine.hooks.async_runtime_info_hook import AsyncRuntimeInfoHook
from swin_ext.engine.hooks.atomic_checkpoint_hook import AtomicCheckpointHook
from swin_ext.engine.hooks.backbone_freeze_hook import BackboneFreezeHook
from swin_ext.engine.hooks.best_checkpoint_hook import BestCheckpointHook
from swin_ext.engine.hooks.budget_hook import BudgetHook
from swin_ext.engine.hooks.class_check_hook import ClassCheckHook
from swin_ext.engine.hooks.early_stopping_hook import ResumableEarlyStoppingHook
from swin_ext.engine.hooks.gpu_stats_hook import GPUStatsHook
from swin_ext.engine.hooks.history_hook import HistoryHook
from swin_ext.engine.hooks.nonfinite_loss_hook import NonFiniteLossHook
from swin_ext.engine.hooks.preemption_hook import PreemptionHook
from swin_ext.engine.hooks.progress_bar_hook import ProgressBarHook
from swin_ext.engine.hooks.results_table_hook import ResultsTableHook
from swin_ext.engine.hooks.sample_predictions_hook import SamplePredictionsHook
from swin_ext.engine.hooks.terminal_logger_hook import TerminalLoggerHook

__all__ = [
    'AdaptCheckpointHook',
    'AsyncRuntimeInfoHook',
    'AtomicCheckpointHook',
    'BackboneFreezeHook',
    'BestCheckpointHook',
    'BudgetHook',
    'ClassCheckHook',
    'GPUStatsHook',
    'HistoryHook',
    'NonFiniteLossHook',
    'PreemptionHook',
    'ProgressBarHook',
    'ResultsTableHook',
    'ResumableEarlyStoppingHook',
    'SamplePredictionsHook',
    'TerminalLoggerHook',
]
