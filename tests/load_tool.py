"""Scripts of tools/, which is no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[1] / 'tools'


def load_tool(name: str):
    """Import a script by its name."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
    return sys.modules[name]
