"""Packages that only some uses need."""

from __future__ import annotations

import importlib.util


def require(module: str, user: str) -> None:
    """Raise a `ModuleNotFoundError` that says how to install a module that is missing."""
    if importlib.util.find_spec(module) is None:
        package = module.replace('_', '-')
        raise ModuleNotFoundError(f'{user} needs {package}: pip install {package}')
