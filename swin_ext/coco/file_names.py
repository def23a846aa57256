"""Names of image files, as annotation files give them: whether they stay in their folder."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

_SURELY_INSIDE = re.compile(r'[^/\\:][^\\:]*')  # below the folder on any system, unless by `..`


def leaves_folder(file_name: str) -> bool:
    """Whether a `file_name` may lie elsewhere than in the folder it is relative to.

    An annotation file from someone else must not have the pictures of a run show other files.
    Links in the folder are followed: who can make them could have put the files there.
    """
    if _SURELY_INSIDE.fullmatch(file_name) and '..' not in file_name:
        return False
    return (
        '://' in file_name
        or '..' in re.split(r'[/\\]', file_name)
        or PurePosixPath(file_name).is_absolute()
        or PureWindowsPath(file_name).is_absolute()
    )
