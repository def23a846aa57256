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
