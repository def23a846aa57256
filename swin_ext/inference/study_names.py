"""What outputs call a study, and from which files and settings its results come."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from pathlib import Path

from swin_ext.inference.inputs import FoundStudy, InputError
from swin_ext.version import __version__

PSEUDONYM_BYTES = 1 << 20
MAX_NAME_BYTES = 150  # file systems allow 255
SUFFIXES = re.compile(r'(\.nii)?\.(gz|nii|hdr|img|dcm|ima|png|jpe?g|npy)$', re.IGNORECASE)


class StudyNames:
    """Gives each study of a run a name of its own.

    'pseudonym' takes 'p' and ten hexadecimal digits of the SHA-256 of the first MiB of the first
    file: it stays the same from run to run, and tells nobody a patient who does not hold the
    images. 'path' takes the path below the input, for paths that name nobody.
    """

    def __init__(self, kind: str = 'pseudonym'):
        self.kind = kind
        self._label_of: dict[str, str] = {}

    def name(self, found: FoundStudy) -> str:
        """The name of a study.

        Raises:
            InputError: If it is that of another study of the run.
            OSError: If the first file cannot be read.
        """
        name = _pseudonym(found.files[0]) if self.kind == 'pseudonym' else _path_name(found.label)
        # Some file systems take names for one that differ in case or composition of letters.
        key = unicodedata.normalize('NFC', name).casefold()
        other = self._label_of.setdefault(key, found.label)
        if other is not found.label:
            raise InputError(
                f'{found.label} would be called {name}, as {other} is already: '
                + (
                    'its first file is the same, so one is a copy. Leave one of them out.'
                    if self.kind == 'pseudonym'
                    else 'rename one of them, or use pseudonyms (--names pseudonym).'
                )
            )
        return name


def _pseudonym(path: Path) -> str:
    with open(path, 'rb') as file:
        return 'p' + hashlib.sha256(file.read(PSEUDONYM_BYTES)).hexdigest()[:10]


def _path_name(label: str) -> str:
    name = '_'.join(SUFFIXES.sub('', part) for part in Path(label).parts if part != os.sep)
    name = ''.join(
        letter if letter.isprintable() and letter not in '/\\' else '_' for letter in name
    )
    name = os.fsencode(name.lstrip('.'))[:MAX_NAME_BYTES].decode('utf-8', 'ignore').strip()
    return name or 'study'


def fingerprint_of(found: FoundStudy, model_sha256: str, settings: dict) -> str:
    """Digest of what results depend on: files, by name, size and time, model, settings, version."""
    root = found.files[0].parent
    files = []
    for path in (*found.files, *found.unreadable):
        status = path.stat()
        files.append([os.path.relpath(path, root), status.st_size, status.st_mtime_ns])
    content = [__version__, model_sha256, settings, files]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
