"""The error of annotation files."""

from __future__ import annotations

from swin_ext.utils.errors import UserError


class AnnotationError(UserError, ValueError):
    """An annotation file, or an entry of it, cannot be used."""
