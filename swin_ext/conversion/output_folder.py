"""The output folder of a conversion: to whom it belongs, what it was made with, what it keeps."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swin_ext.conversion.coco_merge import read_study_header
from swin_ext.conversion.coco_writer import image_folder, study_file
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.splits import Split
from swin_ext.conversion.study import LabelMap
from swin_ext.utils.errors import UserError
from swin_ext.utils.files import replacing_text

STATE_FILE = 'conversion.json'
REPORT_FILE = 'report.json'
SPLIT_FILE = re.compile(r'(train|val)(_fold\d+)?\.json')


class OutputFolderError(UserError, FileExistsError):
    """The output folder holds something that must not be replaced, or is in use."""


def describe(settings: Settings, split: Split, patient_ids: dict[str, str]) -> dict:
    """All settings, and the split, in JSON; patients are named by their ids of the output."""
    state = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    state['split'] = dataclasses.asdict(split)
    if split.val_patients:
        state['split']['val_patients'] = sorted(patient_ids.get(p, '?') for p in split.val_patients)
    return json.loads(json.dumps(state, default=_describe_labels))


def _describe_labels(labels: LabelMap) -> dict:
    return dict(classes=str(labels), ignored=sorted(labels.ignored))


def check_folder(out: Path, state: dict, overwrite: bool) -> None:
    """Find out whether a conversion with the settings of `state` may be written into `out`.

    Raises:
        OutputFolderError: `out` holds something else, or other settings and no `overwrite`.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / STATE_FILE).is_file():
        raise OutputFolderError(
            f'{out} exists and has no {STATE_FILE}, so it is no conversion '
            'and is never replaced: choose another --out'
        )
    found = _read_state(out)
    changed = [key for key in state if found.get(key) != state[key]]
    if changed and not overwrite:
        raise OutputFolderError(
            f'{out} holds a conversion with other arguments ({", ".join(changed)}): choose '
            'another --out, or replace it with --overwrite'
        )


def _read_state(out: Path) -> dict:
    try:
        found = json.loads((out / STATE_FILE).read_text(encoding='utf-8'))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def prepare_folder(out: Path, state: dict, overwrite: bool) -> None:
    """Make a folder that is checked and locked ready for a conversion."""
    if overwrite:
        clear_folder(out)
    for patient_id in _interrupted(out):
        if not study_file(out, patient_id).exists():
            shutil.rmtree(image_folder(out, patient_id), ignore_errors=True)
    shutil.rmtree(out / '.partial', ignore_errors=True)
    write_json(out / STATE_FILE, state)


def clear_folder(out: Path) -> None:
    """Remove a conversion from its folder and nothing else; the marker goes last."""
    for patient_id in _finished(out) | _interrupted(out):
        remove_study(out, patient_id)
    shutil.rmtree(out / '.partial', ignore_errors=True)
    for folder in (out / 'images', out / 'studies'):
        with suppress(OSError):  # something else is in it
            folder.rmdir()
    for path in list(out.iterdir()):
        if SPLIT_FILE.fullmatch(path.name) or path.name == REPORT_FILE:
            path.unlink()
    (out / STATE_FILE).unlink(missing_ok=True)


def remove_withdrawn(out: Path, patient_ids: set[str]) -> int:
    """Remove what was written of all other patients than these; return their number."""
    withdrawn = _finished(out) - patient_ids
    for patient_id in withdrawn:
        remove_study(out, patient_id)
    return len(withdrawn)


def remove_study(out: Path, patient_id: str) -> None:
    """Remove the pixels and entries of a patient; files of others in its folder stay."""
    folder = image_folder(out, patient_id)
    if folder.is_dir():
        for path in list(folder.iterdir()):
            if path.name.startswith(f'{patient_id}_') and path.suffix == '.png':
                path.unlink()
        with suppress(OSError):  # something else is in it
            folder.rmdir()
    study_file(out, patient_id).unlink(missing_ok=True)


def _finished(out: Path) -> set[str]:
    names = {path.name[: -len('.jsonl')] for path in (out / 'studies').glob('*.jsonl')}
    return {name for name in names if read_study_header(out, name) is not None}


def _interrupted(out: Path) -> set[str]:
    return {path.name for path in (out / '.partial').glob('*')}


@contextmanager
def locked(out: Path) -> Iterator[int]:
    """Keep other runs out of a folder; yield what holds the lock, which ends with the process.

    Raises:
        OutputFolderError: Another run is writing into it.
    """
    lock = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputFolderError(
                f'another run is writing into {out}: wait for it, or choose another --out'
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL):
                raise
            print(
                f'{out} is on a file system without locks: make sure that no other run writes '
                'into it',
                file=sys.stderr,
            )
        yield lock
    finally:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)  # also where a worker has inherited it
        os.close(lock)


def release_in_worker(lock: int, out: Path) -> None:
    """Let go of a lock in a forked process, which could outlive the one that holds it."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(lock), os.stat(out)):
            os.close(lock)


def write_json(path: Path, content: dict) -> None:
    with replacing_text(path) as file:
        file.write(json.dumps(content, indent=2) + '\n')
