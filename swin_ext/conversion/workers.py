"""Write studies in this process or in several."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from swin_ext.conversion.coco_writer import write_study
from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.output_folder import release_in_worker
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.study import Study
from swin_ext.utils.errors import UserError

STUDIES_IN_FLIGHT_PER_WORKER = 2


class WorkersError(UserError, RuntimeError):
    """A worker process ended without a result."""


def write_studies(
    todo: list[tuple], workers: int, lock: int
) -> Iterator[tuple[str, ConversionError | None]]:
    """Yield each patient with the problem of the study, if it has one.

    Args:
        todo: Arguments of `coco_writer.write_study`.
        lock: On the output folder, see `output_folder.locked`.

    Raises:
        WorkersError: If a worker process was killed.
    """
    if workers == 1 or not todo:
        for arguments in todo:
            yield write_or_explain(*arguments)
        return
    # Few at a time, so that an error or an interrupt does not wait for a long queue.
    waiting, pending = iter(todo), set()
    with ProcessPoolExecutor(
        workers, initializer=_start_worker, initargs=(lock, todo[0][2])
    ) as pool:
        try:
            while True:
                for arguments in waiting:
                    pending.add(pool.submit(write_or_explain, *arguments))
                    if len(pending) >= workers * STUDIES_IN_FLIGHT_PER_WORKER:
                        break
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise WorkersError(
                'a worker process was killed, most often for lack of memory. Finished '
                'studies stay; run again with fewer --workers to go on.'
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _start_worker(lock: int, out: Path) -> None:
    # On Ctrl+C the workers finish their studies, and only the main process stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    release_in_worker(lock, out)


def write_or_explain(
    study: Study, patient_id: str, out: Path, settings: Settings, fingerprint: str
) -> tuple[str, ConversionError | None]:
    """Write a study and return its patient, with the error if its files are at fault."""
    try:
        write_study(study, patient_id, out, settings, fingerprint)
    except ConversionError as error:
        return study.patient, error
    return study.patient, None
