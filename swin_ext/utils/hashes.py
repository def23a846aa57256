"""Hashes of files, and those that their names carry."""

from __future__ import annotations

import hashlib
import os
import re

CHUNK_BYTES = 1 << 20


def hash_in_name(name: str) -> str | None:
    """Return the first hex digits of the SHA-256 in a name like `model-b92c91f1.pth`.

    OpenMMLab and torch.hub publish files under such names, with 8 digits or more.
    """
    match = re.search(r'-([0-9a-f]{8,64})(?:\.\w+)+$', name)
    return match[1] if match else None


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hex digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b''):
            digest.update(chunk)
    return digest.hexdigest()
