"""The error of data sets."""

from __future__ import annotations

from swin_ext.utils.errors import UserError


class DatasetError(UserError, ValueError):
    """A data set, or one of its files or annotations, cannot be used."""
