"""Convert studies one by one, resume where a run ended, and report what was left out."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from swin_ext.coco.entries import STUDY_WARNINGS
from swin_ext.conversion.coco_merge import merge_studies, read_study_header
from swin_ext.conversion.errors import ArgumentError, ConversionError
from swin_ext.conversion.output_folder import (
    REPORT_FILE,
    check_folder,
    describe,
    locked,
    prepare_folder,
    remove_study,
    remove_withdrawn,
    write_json,
)
from swin_ext.conversion.patients import fingerprint_of, name_patients
from swin_ext.conversion.settings import Settings, preprocessing_of_all
from swin_ext.conversion.splits import Split, split_patients
from swin_ext.conversion.study import Study, sha256_of
from swin_ext.conversion.workers import write_studies
from swin_ext.version import __version__


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

    A study that is finished is not converted again, unless its files, the arguments of its reader
    or this package have changed. What an earlier run wrote of patients that are no longer among
    the studies, or can no longer be converted, is removed.

    Args:
        on_error: 'stop' at the first study that cannot be converted, or 'skip' and report it.
        overwrite: Start anew where `out` holds a conversion with other settings.

    Returns:
        The report, also in `out/report.json`. By split, `images`, those `without_label` and
        `instances`; `left_out` and `noted` with counts, `study_warnings` by patient (doubts of
        place and time, which annotation files have as `info['study_warnings']`), `skipped` studies,
        and the number of those `converted`, `resumed` and `withdrawn`.

    Raises:
        ConversionError: With on_error='stop', or if no study could be converted.
        OutputFolderError: If `out` holds something that must not be replaced, or is in use.
        ArgumentError: If the split is impossible.
        WorkersError: If a worker process ended. As after all other errors and after Ctrl+C, what
            is finished stays, and a new run goes on from there.
        OSError: If the output cannot be written.
    """
    if not studies:
        raise ArgumentError('there is no study to convert')
    members = split_patients(
        [study.patient for study in studies],
        split.val_fraction,
        list(split.val_patients) if split.val_patients else None,
        split.folds,
        split.seed,
    )
    preprocessing = preprocessing_of_all(settings, studies)
    problems: dict[str, ConversionError] = {}
    patient_ids = name_patients(studies, settings.patient_ids, problems)
    state = describe(settings, split, patient_ids)
    check_folder(out, state, overwrite)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out) as lock:
        check_folder(out, state, overwrite)  # another run may just have ended
        prepare_folder(out, state, overwrite)
        todo = []
        for study in studies:
            if study.patient in problems:
                continue
            patient_id, fingerprint = patient_ids[study.patient], fingerprint_of(study, settings)
            header = read_study_header(out, patient_id)
            if header is None or header.get('fingerprint') != fingerprint:
                todo.append((study, patient_id, out, settings, fingerprint))
        resumed = len(studies) - len(problems) - len(todo)
        if problems and on_error == 'stop':
            raise next(iter(problems.values()))
        with tqdm(
            total=len(studies), initial=len(studies) - len(todo), desc='studies', unit='study'
        ) as progress:
            for patient, problem in write_studies(todo, workers, lock):
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
        info = dict(
            description='Cardiac MR',
            converter=f'swin_ext {__version__}',
            preprocessing=preprocessing.to_dict(),
            **{key: value for key, value in state.items() if key != 'split'},
        )
        report = _merge(studies, out, settings, members, patient_ids, problems, info)
        # After the merge, so that at no time a file names images that are gone.
        for patient in problems.keys() & patient_ids.keys():
            remove_study(out, patient_ids[patient])
        kept = {patient_ids[s.patient] for s in studies if s.patient not in problems}
        report |= dict(
            converted=len(studies) - len(problems) - resumed,
            resumed=resumed,
            withdrawn=remove_withdrawn(out, kept),
        )
        write_json(out / REPORT_FILE, report)
    return report


def _merge(
    studies: list[Study],
    out: Path,
    settings: Settings,
    members: dict[str, list[str]],
    patient_ids: dict[str, str],
    problems: dict[str, ConversionError],
    info: dict,
) -> dict:
    """Write the COCO files and return what the report says of their content."""
    report = dict(
        images={},
        without_label={},
        instances={},
        left_out=Counter(),
        noted=Counter(),
        study_warnings={},
        skipped=[],
    )
    for study in studies:
        if study.patient in problems:
            report['skipped'].append(
                describe_problem(problems[study.patient], study, patient_ids, settings)
            )
        else:
            header = read_study_header(out, patient_ids[study.patient])
            for key in ('left_out', 'noted'):
                report[key].update(header[key])
            if header.get('doubts'):  # folders of earlier days have none
                report['study_warnings'][header['patient_id']] = header['doubts']
    for name, patients in members.items():
        converted = [patient_ids[patient] for patient in patients if patient not in problems]
        warned = report['study_warnings']
        doubts = {patient: warned[patient] for patient in converted if patient in warned}
        report['images'][name], report['without_label'][name], counts = merge_studies(
            out,
            name,
            converted,
            settings.labels.classes,
            {**info, STUDY_WARNINGS: doubts} if doubts else info,
        )
        report['instances'][name] = {key: counts[key] for key in settings.labels.classes}
    return report


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
        try:
            entry['file_sha256'] = sha256_of(path)
        except ConversionError:  # it cannot be read, which the problem says
            pass
    return entry
