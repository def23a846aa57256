"""Convert studies one by one, resume where a run ended, and report what was left out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from swin_ext.conversion.coco_merge import merge_studies, read_study_header
from swin_ext.conversion.coco_writer import Settings, study_file, write_study
from swin_ext.conversion.splits import split_patients
from swin_ext.conversion.study import ConversionError, Study, sha256_of
from swin_ext.utils.files import replacing_text

STATE_FILE = 'conversion.json'
REPORT_FILE = 'report.json'
PSEUDONYM_BYTES = 1 << 20
STUDIES_IN_FLIGHT_PER_WORKER = 2


@dataclass(frozen=True)
class Split:
    """Arguments of `splits.split_patients`."""

    val_fraction: float | None = None
    val_patients: tuple[str, ...] | None = None
    folds: int | None = None
    seed: int = 0


def convert(
    studies: list[Study],
    out: Path,
    settings: Settings,
    split: Split,
    *,
    on_error: str = 'stop',
    workers: int = 1,
    overwrite: bool = False,
) -> dict:
    """Convert all studies into `out` and write the COCO file of every split.

    A study that is finished and whose files are unchanged is not converted again.

    Args:
        on_error: 'stop' at the first study that cannot be converted, or 'skip' and report it.
        overwrite: Start anew where `out` holds a conversion with other settings.

    Returns:
        The report, also in `out/report.json`: `images` and `instances` of every split, `left_out`
        with counts, `skipped` studies, and `converted` and `resumed` studies.

    Raises:
        ConversionError: With on_error='stop', or if no study could be converted.
        FileExistsError: If `out` holds something that must not be replaced.
        ValueError: If the split is impossible.
        OSError: If the output cannot be written. What is finished stays, and a new run goes on
            from there.
    """
    members = split_patients(
        [study.patient for study in studies],
        split.val_fraction,
        list(split.val_patients) if split.val_patients else None,
        split.folds,
        split.seed,
    )
    problems: dict[str, ConversionError] = {}
    patient_ids = name_patients(studies, settings.patient_ids, problems)
    state = describe(settings, split, patient_ids)
    prepare_folder(out, state, overwrite)

    resumed = []
    todo = []
    for study in studies:
        if study.patient in problems:
            continue
        fingerprint = fingerprint_of(study)
        header = read_study_header(out, patient_ids[study.patient])
        if header and header['fingerprint'] == fingerprint:
            resumed.append(study.patient)
        else:
            # What it was made of has changed, or it was never finished.
            study_file(out, patient_ids[study.patient]).unlink(missing_ok=True)
            todo.append((study, patient_ids[study.patient], out, settings, fingerprint))
    if problems and on_error == 'stop':
        raise next(iter(problems.values()))
    with tqdm(
        total=len(studies), initial=len(studies) - len(todo), desc='studies', unit='study'
    ) as progress:
        for patient, problem in run(todo, workers):
            progress.update()
            if problem is not None:
                if on_error == 'stop':
                    raise problem
                problems[patient] = problem
                progress.write(f'skipped: {problem}', file=sys.stderr)
    shutil.rmtree(out / '.partial', ignore_errors=True)
    if len(problems) == len(studies):
        raise ConversionError(
            f'none of {len(studies)} studies could be converted',
            f'The first problem: {next(iter(problems.values()))}',
            studies[0].root,
        )

    report = dict(
        images={},
        instances={},
        left_out=Counter(),
        skipped=[],
        converted=len(todo) - len(problems.keys() & {item[0].patient for item in todo}),
        resumed=len(resumed),
    )
    for study in studies:
        if study.patient in problems:
            report['skipped'].append(
                describe_problem(problems[study.patient], study, patient_ids, settings)
            )
        else:
            header = read_study_header(out, patient_ids[study.patient])
            report['left_out'].update(header['left_out'])
    info = dict(
        description='Cardiac MR', **{key: value for key, value in state.items() if key != 'split'}
    )
    for name, patients in members.items():
        converted = [patient_ids[patient] for patient in patients if patient not in problems]
        report['images'][name], counts = merge_studies(
            out, name, converted, settings.labels.classes, info
        )
        report['instances'][name] = {key: counts[key] for key in settings.labels.classes}
    write_json(out / REPORT_FILE, report)
    return report


def name_patients(
    studies: list[Study], patient_ids: str, problems: dict[str, ConversionError]
) -> dict[str, str]:
    """Patient ids of the output by patient; never from a header.

    'folder' keeps the names that the patterns found in the paths. 'pseudonym' takes 'p' and ten
    hexadecimal digits of the SHA-256 of the first MiB of the patient's first image file: it stays
    the same from run to run, whoever holds the images can trace it, and nobody else can.

    A patient whose image cannot be read, or is that of another patient, enters `problems`.
    """
    if patient_ids == 'folder':
        return {study.patient: study.patient for study in studies}
    names, owner = {}, {}
    for study in studies:
        files = study.source_files()
        path = files[0] if files else study.root / study.patient
        try:
            with open(path, 'rb') as file:
                name = 'p' + hashlib.sha256(file.read(PSEUDONYM_BYTES)).hexdigest()[:10]
        except OSError as error:
            problem = ConversionError(
                'it has no image file that can be read', 'Restore it, or leave the study out', path
            )
            problem.__cause__ = error
            problems[study.patient] = problem
            continue
        if name in owner:
            problems[study.patient] = ConversionError(
                'its first image is that of another patient, so one is a copy, and they could '
                'come to lie in different splits',
                f'Remove one of {study.patient} and {owner[name]}',
                path,
            )
            continue
        names[study.patient], owner[name] = name, study.patient
    return names


def fingerprint_of(study: Study) -> str:
    """Digest of names, sizes and times of a study's files; changes whenever one is replaced."""
    digest = hashlib.sha256()
    for path in study.source_files():
        try:
            status = path.stat()
            digest.update(
                f'{path.relative_to(study.root)} {status.st_size} {status.st_mtime_ns}\n'.encode()
            )
        except OSError:
            digest.update(f'{path} is missing\n'.encode())
    return digest.hexdigest()


def describe(settings: Settings, split: Split, patient_ids: dict[str, str]) -> dict:
    """The arguments that an output depends on; it names patients by their ids of the output."""
    val = split.val_patients
    return dict(
        labels=str(settings.labels),
        ignored=sorted(settings.labels.ignored),
        pixels=settings.pixels,
        window=list(settings.window),
        instances=settings.instances,
        patient_ids=settings.patient_ids,
        keep_empty=settings.keep_empty,
        split=dict(
            val_fraction=split.val_fraction,
            folds=split.folds,
            seed=split.seed,
            val_patients=sorted(patient_ids.get(p, '?') for p in val) if val else None,
        ),
    )


def prepare_folder(out: Path, state: dict, overwrite: bool) -> None:
    """Make `out` a folder for a conversion with the arguments of `state`, or find it to be one.

    Raises:
        FileExistsError: `out` holds something else, or other arguments and no `overwrite`.
    """
    marker = out / STATE_FILE
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not marker.is_file():
            raise FileExistsError(
                f'{out} exists and has no {STATE_FILE}, so it is no conversion '
                'and is never replaced: choose another --out'
            )
        try:
            found = json.loads(marker.read_text(encoding='utf-8'))
        except ValueError:
            found = {}
        changed = [key for key in state if found.get(key) != state[key]]
        if changed and not overwrite:
            raise FileExistsError(
                f'{out} holds a conversion with other arguments ({", ".join(changed)}): choose '
                'another --out, or replace it with --overwrite'
            )
        if overwrite:
            clear_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / '.partial', ignore_errors=True)
    write_json(marker, state)


def clear_folder(out: Path) -> None:
    """Remove a conversion from its folder and nothing else; the marker goes last."""
    for name in ('images', 'studies', '.partial'):
        shutil.rmtree(out / name, ignore_errors=True)
    for path in (
        *out.glob('train*.json'),
        *out.glob('val*.json'),
        out / REPORT_FILE,
        out / STATE_FILE,
    ):
        path.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    with replacing_text(path) as file:
        file.write(json.dumps(content, indent=2) + '\n')


def run(todo: list[tuple], workers: int) -> Iterator[tuple[str, ConversionError | None]]:
    """Write studies in this process or in several; yield each patient with its problem."""
    if workers == 1:
        for arguments in todo:
            yield write_or_explain(*arguments)
        return
    # Few at a time, so that an error or an interrupt does not wait for a long queue.
    waiting, pending = iter(todo), set()
    # On Ctrl+C the workers finish their studies, and only this process stops.
    with ProcessPoolExecutor(
        workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
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
        finally:
            for future in pending:
                future.cancel()


def write_or_explain(
    study: Study, patient_id: str, out: Path, settings: Settings, fingerprint: str
) -> tuple[str, ConversionError | None]:
    """Write a study and return its patient, with the error if its files are at fault."""
    try:
        write_study(study, patient_id, out, settings, fingerprint)
    except ConversionError as error:
        return study.patient, error
    return study.patient, None


def describe_problem(
    problem: ConversionError, study: Study, patient_ids: dict[str, str], settings: Settings
) -> dict:
    """Entry of the report. With pseudonyms, the file is given by its hash, as names may tell."""
    entry = dict(patient_id=patient_ids.get(study.patient), problem=problem.problem)
    path = Path(problem.path)
    if settings.patient_ids == 'folder':
        entry['file'] = os.path.relpath(path, study.root)
        entry['remedy'] = problem.remedy
    elif path.is_file():
        entry['file_sha256'] = sha256_of(path)
    return entry
