"""Finds the checkpoint that an interrupted training goes on from."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

from mmengine.logging import print_log

from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.checkpoint.writer import LAST_CHECKPOINT
from swin_ext.utils.ranks import on_main_process

RESUMABLE = {'state_dict', 'optimizer', 'message_hub', 'meta'}  # what training needs to go on


def checkpoint_to_resume(work_dir: str, given: str | None = None) -> str | None:
    """Choose, on the main process for all, what to resume from, and check that it is whole.

    Args:
        work_dir: Where the interrupted run saved. What its file `last_checkpoint` names comes
            first; if that file is damaged or gone, the checkpoint that was written last of the
            whole ones.
        given: Path or URL that the user gave instead, for which there is no substitute.

    Returns:
        Path or URL of the checkpoint; None if the run had not saved any yet.

    Raises:
        CheckpointError: If `given` is damaged, or if all checkpoints of the work dir are. This and
            any other error is raised on all ranks.
    """
    return on_main_process(_choose, work_dir, given)


def _choose(work_dir: str, given: str | None) -> str | None:
    if given is None:
        return _newest_whole(work_dir)
    path = os.path.expanduser(given)
    if os.path.isfile(path):
        check_whole(path)
    return given


def check_whole(path: str | os.PathLike) -> None:
    """Compare a checkpoint file with the checksums in it, which `torch.load` does not.

    Raises:
        CheckpointError: If the file is truncated or damaged.
    """
    if not zipfile.is_zipfile(path):
        load_checkpoint_file(path, map_location='cpu')  # legacy format; raises if neither
        return
    try:
        with zipfile.ZipFile(path) as records:
            name = records.testzip()
        problem = name and f'the checksum of its record {name} differs'
    except Exception as error:  # zipfile raises many types on a damaged file
        problem = f'{type(error).__name__}: {error}'
    if problem:
        raise CheckpointError(
            f"'{path}' ({os.path.getsize(path)} bytes) is damaged: {problem}. Copy it again from "
            'where it is whole, or use another checkpoint.'
        )


def _newest_whole(work_dir: str) -> str | None:
    named, problems = _named_by_last_checkpoint(work_dir)
    if named and '://' in named:
        return named
    others = sorted(Path(work_dir).glob('*.pth'), key=os.path.getmtime, reverse=True)
    for path in [named] * bool(named) + [str(path) for path in others if str(path) != named]:
        try:
            check_whole(path)
            if path != named and not RESUMABLE <= set(load_checkpoint_file(path, 'cpu')):
                continue  # weights for inference, for instance
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            print_log(
                f'Resuming from {path}, the newest whole checkpoint, instead: '
                + ' '.join(problems),
                'current',
                logging.WARNING,
            )
        return path
    if problems:
        raise CheckpointError(
            f'Cannot resume: {work_dir} has no whole checkpoint. {" ".join(problems)} '
            'Restore one of them, give another one (--resume PATH), or start anew without '
            '--resume.'
        )
    print_log(
        f'There is no checkpoint in {work_dir} yet: training starts from the beginning.',
        'current',
        logging.WARNING,
    )
    return None


def _named_by_last_checkpoint(work_dir: str) -> tuple[str | None, list[str]]:
    """Return what `last_checkpoint` names and, where it names no file, what is wrong with it."""
    pointer = Path(work_dir, LAST_CHECKPOINT)
    if not pointer.is_file():
        return None, []
    named = pointer.read_text(errors='replace').strip()
    beside = os.path.join(work_dir, os.path.basename(named))
    if os.path.isfile(beside):  # also after the work dir was moved or copied
        return beside, []
    if '://' in named or os.path.isfile(named):
        return named, []
    return None, [f"{pointer} names '{named}', which does not exist."]
