"""What is raised, or warned of, where the place or time of frames cannot be told."""

from __future__ import annotations

from pathlib import Path

from swin_ext.utils.errors import UserError


class StudyError(UserError, ValueError):
    """A file cannot be put in its place in space or in time.

    Args:
        problem: What is wrong. It never quotes a path or a text that could identify a patient.
        remedy: What to do about it.
        path: The file or folder at fault.
    """

    def __init__(self, problem: str, remedy: str, path: Path | str):
        super().__init__(problem, remedy, str(path))
        self.problem, self.remedy, self.path = problem, remedy, str(path)

    def __str__(self) -> str:
        return f'{self.path}: {self.problem}. {self.remedy}.'


class StudyWarning(UserWarning):
    """Place or time of a study was told, but not without a doubt that figures should mention."""
