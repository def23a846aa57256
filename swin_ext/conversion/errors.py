"""Errors of a conversion."""

from __future__ import annotations

from pathlib import Path

from swin_ext.utils.errors import UserError


class ArgumentError(UserError, ValueError):
    """An argument of the conversion is impossible, or does not fit another one or the files."""


class ConversionError(UserError, ValueError):
    """A source file cannot be converted.

    Args:
        problem: What is wrong. It may enter the report in the output folder, so it never quotes a
            path or the text of a header.
        remedy: What to do about it.
        path: The file or folder at fault; shown to the user alone.
    """

    def __init__(self, problem: str, remedy: str, path: Path | str):
        super().__init__(problem, remedy, str(path))
        self.problem, self.remedy, self.path = problem, remedy, str(path)
        self._cause_elsewhere = ''

    @property
    def cause(self) -> str:
        """Type and text of the error behind this one, or ''."""
        if self.__cause__ is None:
            return self._cause_elsewhere
        return f'{type(self.__cause__).__name__}: {self.__cause__}'

    def __str__(self) -> str:
        text = f'{self.path}: {self.problem}. {self.remedy}.'
        return f'{text} ({self.cause})' if self.cause else text

    def __reduce__(self):
        # On its way from a worker, an error loses `__cause__`.
        return type(self), self.args, dict(_cause_elsewhere=self.cause)
