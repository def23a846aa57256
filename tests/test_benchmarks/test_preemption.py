from __future__ import annotations

from pathlib import Path

import torch

from swin_ext.benchmarks.preemption import measure_checkpoint

NANO = Path(__file__).parents[2] / 'configs/mask_rcnn_swin-nano_cmr.py'


def test_the_state_of_a_training_is_written_and_timed(tmp_path):
    report = measure_checkpoint(str(NANO), tmp_path, repeats=1)

    saved = torch.load(tmp_path / 'checkpoint.pth', weights_only=True)
    numbers = sum(value.numel() for value in saved['state_dict'].values())
    states = [state['exp_avg_sq'] for state in saved['optimizer']['state'].values()]
    assert sum(value.numel() for value in states) <= numbers
    assert 0 < report['copy_s'] <= report['whole_s'] == report['slowest_s']
    # Weights, and two numbers of AdamW for each, of four bytes
    assert 3 * 4 * numbers * 0.9 < report['mib'] * 2**20 < 3 * 4 * numbers * 1.2
