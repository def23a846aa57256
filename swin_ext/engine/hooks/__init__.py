from .adapt_checkpoint_hook import AdaptCheckpointHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .backbone_freeze_hook import BackboneFreezeHook
from .best_checkpoint_hook import BestCheckpointHook
from .class_check_hook import ClassCheckHook
from .early_stopping_hook import ResumableEarlyStoppingHook
from .gpu_stats_hook import GPUStatsHook
from .history_hook import HistoryHook
from .nonfinite_loss_hook import NonFiniteLossHook
from .progress_bar_hook import ProgressBarHook
from .results_table_hook import ResultsTableHook
from .sample_predictions_hook import SamplePredictionsHook

__all__ = [
    'AdaptCheckpointHook',
    'AtomicCheckpointHook',
    'BackboneFreezeHook',
    'BestCheckpointHook',
    'ClassCheckHook',
    'GPUStatsHook',
    'HistoryHook',
    'NonFiniteLossHook',
    'ProgressBarHook',
    'ResultsTableHook',
    'ResumableEarlyStoppingHook',
    'SamplePredictionsHook',
]
