"""Names of patients in the output, and of which files and settings a study was made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import unicodedata
from pathlib import Path

from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.study import Study
from swin_ext.version import __version__

PSEUDONYM_BYTES = 1 << 20
MAX_NAME_BYTES = 200  # file systems allow 255, and names of slices are appended


def name_patients(
    studies: list[Study], patient_ids: str, problems: dict[str, ConversionError]
) -> dict[str, str]:
    """Patient ids of the output by patient; never from a header.

    'folder' keeps the names that the patterns found in the paths. 'pseudonym' takes 'p' and ten
    hexadecimal digits of the SHA-256 of the first MiB of the patient's first image file: it stays
    the same from run to run, whoever holds the images can trace it, and nobody else can.

    A patient enters `problems` whose image cannot be read, or is that of another patient, or
    whose name can be none of a folder, or only where another patient's is not.
    """
    names, owner = {}, {}
    for study in studies:
        try:
            name = _pseudonym(study) if patient_ids == 'pseudonym' else _folder_name(study)
        except ConversionError as error:
            problems[study.patient] = error
            continue
        # Some file systems take names for one that differ in case or composition of letters.
        other = owner.setdefault(unicodedata.normalize('NFC', name).casefold(), study)
        if other is not study:
            problems[study.patient] = _not_unique(study, other, patient_ids)
            continue
        names[study.patient] = name
    return names


def _pseudonym(study: Study) -> str:
    path = _first_file(study)
    try:
        with open(path, 'rb') as file:
            return 'p' + hashlib.sha256(file.read(PSEUDONYM_BYTES)).hexdigest()[:10]
    except OSError as error:
        raise ConversionError(
            'it has no image file that can be read', 'Restore it, or leave the study out', path
        ) from error


def _folder_name(study: Study) -> str:
    name = study.patient
    odd = not name.isprintable() or name in ('.', '..') or name.startswith('.')
    if odd or '/' in name or '\\' in name or len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise ConversionError(
            'the name of its patient can be none of a folder: it is too long, starts with a dot, '
            'or has a character that is not printable or separates folders',
            'Rename it, or use pseudonyms',
            _first_file(study),
        )
    return name


def _not_unique(study: Study, other: Study, patient_ids: str) -> ConversionError:
    if patient_ids == 'pseudonym':
        return ConversionError(
            'its first image is that of another patient, so one is a copy, and they could '
            'come to lie in different splits',
            f'Remove one of {study.patient} and {other.patient}',
            _first_file(study),
        )
    return ConversionError(
        'the name of its patient differs from that of another one by case or accents alone, and '
        'many file systems could not tell their folders apart',
        f'Rename one of {study.patient} and {other.patient}, or use pseudonyms',
        _first_file(study),
    )


def _first_file(study: Study) -> Path:
    return next(iter(study.source_files()), study.root / study.patient)


def fingerprint_of(study: Study, settings: Settings) -> str:
    """Digest of all that the output of a study depends on.

    That is every field of the study and of the settings, size and time of every file, and the
    version of this package: by construction, so that no argument can be forgotten.
    """
    content = [__version__, _describe(settings, None), _describe(study, study.root)]
    content.append([_describe(path, study.root) for path in study.source_files()])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _describe(value: object, root: Path | None) -> object:
    """A value in JSON, from which it could be told from any other."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return [type(value).__name__, _describe(fields, root)]
    if isinstance(value, Path):
        return _describe_path(value, root)
    if isinstance(value, dict):
        # A list, as the order of labels is that of the classes.
        return [[_describe(key, root), _describe(item, root)] for key, item in value.items()]
    if isinstance(value, (frozenset, set)):
        return sorted(_describe(item, root) for item in value)
    if isinstance(value, (tuple, list)):
        return [_describe(item, root) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _describe_path(path: Path, root: Path | None) -> list:
    if path == root:
        return ['root']
    name = os.path.relpath(path, root) if root else str(path)
    try:
        status = path.stat()
    except OSError:
        return [name, 'missing']
    return [name] if path.is_dir() else [name, status.st_size, status.st_mtime_ns]
