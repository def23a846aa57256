"""Errors of a run that the user can do something about."""

from __future__ import annotations

from swin_ext.utils.errors import UserError


class SettingError(UserError, ValueError):
    """A setting of the config that is wrong, or does not go with another one."""


class SettingTypeError(UserError, TypeError):
    """A part of the run of a kind that a setting does not work with."""


class HistoryError(UserError, ValueError):
    """A table of scalars that this package has not written."""


class MissingMetricError(UserError, KeyError):
    """A validation without the metric that something waits for."""

    __str__ = Exception.__str__  # KeyError shows the quoted form of its text


class ConnectError(UserError, ConnectionError):
    """Processes that did not find each other, or lost each other. Each one tells for itself."""


class DisagreementError(UserError, RuntimeError):
    """Ranks that would not compute the same training: other config, data or version."""
