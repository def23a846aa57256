"""Errors of experiments that the user can do something about."""

from __future__ import annotations

from swin_ext.utils.errors import UserError


class ExperimentError(UserError, ValueError):
    """Arguments, data or an earlier experiment that do not go with what is asked for."""


class RunFailedError(UserError, RuntimeError):
    """A training or test that ended with an error; the text has the end of its log."""
