"""Packages that only some uses need."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from swin_ext.utils.errors import UserError


class MissingPackageError(UserError, ModuleNotFoundError):
    """A package is not installed that something needs; the message says how to get it."""


def require(module: str, user: str) -> None:
    """Raise a `MissingPackageError` if a module is missing, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise missing(user, _package_of(module))


def import_optional(module: str, user: str, *packages: str) -> ModuleType:
    """Import a module, or raise a `MissingPackageError` if that fails.

    Args:
        module: Its full name.
        user: What needs it.
        packages: What to install for it, where that has another name than its first part.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(user, *packages or [_package_of(module)]) from error


def missing(user: str, *packages: str) -> MissingPackageError:
    """The error for something (`user`) that needs packages of these names."""
    return MissingPackageError(
        f'{user} needs {" and ".join(packages)}: pip install {" ".join(packages)}'
    )


def _package_of(module: str) -> str:
    return module.partition('.')[0].replace('_', '-')
