"""Find files by patterns with named fields, such as '{patient}/sa_{phase}.nii.gz'."""

from __future__ import annotations

import os
import re
from pathlib import Path

from swin_ext.conversion.errors import ArgumentError

# A frame in digits keeps '{patient}_frame{frame}.nii.gz' from matching '..._frame01_gt.nii.gz'.
FIELDS = dict(patient='[^/]+?', phase='[A-Za-z0-9]+', frame='[0-9]+', slice='[0-9]+')
TOKEN = re.compile(r'\*\*/|\*|\{(\w+)\}')


def field_names(pattern: str) -> set[str]:
    return {name for name in TOKEN.findall(pattern) if name}


def compile_pattern(pattern: str) -> re.Pattern:
    """Regular expression of a pattern; it matches whole paths with '/' as separator.

    `{patient}` matches within one path component, `{phase}` letters and digits, `{frame}` and
    `{slice}` digits, and a repeated field the same text again. `*` matches within one component,
    `**/` any number of folders.

    Raises:
        ArgumentError: If the pattern has no `{patient}` or an unknown field.
    """
    unknown = field_names(pattern) - set(FIELDS)
    if unknown:
        raise ArgumentError(
            f'pattern {pattern!r} has unknown fields {sorted(unknown)}; known are '
            f'{list(FIELDS)}, and * stands for anything else'
        )
    if 'patient' not in field_names(pattern):
        raise ArgumentError(
            f'pattern {pattern!r} has no {{patient}}, the part of the path that tells '
            'patients apart, as in {patient}/sa_ED.nii.gz'
        )
    parts, seen, end = [], set(), 0
    for token in TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        end = token.end()
        name = token.group(1)
        if token.group() == '**/':
            parts.append('(?:.+/)?')
        elif token.group() == '*':
            parts.append('[^/]*')
        elif name in seen:
            parts.append(f'(?P={name})')
        else:
            seen.add(name)
            parts.append(f'(?P<{name}>{FIELDS[name]})')
    parts.append(re.escape(pattern[end:]))
    return re.compile(''.join(parts))


def find_paths(root: Path, pattern: str, folders: bool = False) -> list[tuple[dict, Path]]:
    """Fields and path of every file (or folder) below `root` that matches, sorted by path.

    Hidden files are passed over: macOS puts one named '._X' beside every X it copies.

    Raises:
        ArgumentError: If the pattern has no `{patient}` or `root` is no folder.
    """
    if not root.is_dir():
        raise ArgumentError(f'{root} is no folder')
    expression = compile_pattern(pattern)
    found = []
    for folder, folder_names, file_names in os.walk(root):
        folder_names[:] = sorted(name for name in folder_names if not name.startswith('.'))
        for name in sorted(folder_names if folders else file_names):
            path = Path(folder, name)
            match = (
                None
                if name.startswith('.')
                else expression.fullmatch(path.relative_to(root).as_posix())
            )
            if match:
                found.append((match.groupdict(), path))
    return sorted(found, key=lambda item: item[1])


def pair_paths(
    root: Path, image_pattern: str, label_pattern: str
) -> list[tuple[dict, list[Path], list[Path]]]:
    """Fields, image files and label files that agree in all fields, sorted by patient.

    Either list is empty where the counterpart is missing and longer than one where the patterns
    are ambiguous; which of both is an error for one study, not for the whole run.

    Raises:
        ArgumentError: If the patterns have different fields.
    """
    if field_names(image_pattern) != field_names(label_pattern):
        raise ArgumentError(
            f'patterns {image_pattern!r} and {label_pattern!r} must have the same '
            'fields, by which images and labels are paired'
        )
    pairs: dict[tuple, tuple[dict, list[Path], list[Path]]] = {}
    for index, pattern in ((1, image_pattern), (2, label_pattern)):
        for fields, path in find_paths(root, pattern):
            pairs.setdefault(tuple(sorted(fields.items())), (fields, [], []))[index].append(path)
    return sorted(pairs.values(), key=lambda pair: (pair[0]['patient'], sorted(pair[0].items())))
