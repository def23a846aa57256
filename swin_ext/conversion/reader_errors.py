"""Errors and doubts of reading a study, as a conversion reports them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from swin_ext.conversion.study import ConversionError
from swin_ext.study.errors import StudyError, StudyWarning


@contextmanager
def conversion_errors(path: Path) -> Iterator[None]:
    """Raise what reading a study raises as a `ConversionError`.

    Args:
        path: Named where the error names no file itself.
    """
    try:
        yield
    except ConversionError:
        raise
    except StudyError as error:
        raise ConversionError(error.problem, error.remedy, error.path) from error.__cause__
    except Exception as error:  # libraries raise many types on damaged files
        raise ConversionError(
            'it cannot be read, for a reason that no check foresaw',
            'Leave the study out, and report the text in brackets',
            path,
        ) from error


def warn_of(notes: Iterable[str], path: Path) -> None:
    """Warn of what a user should know about the figures of the file or folder `path`."""
    for note in notes:
        warnings.warn(f'{path}: {note}', StudyWarning, stacklevel=3)
