import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(scope='session')
def load_tool():
    """Import a script of tools/, which is no package, by its name."""

    def load(name):
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # dataclasses look their module up there
            spec.loader.exec_module(module)
        return sys.modules[name]

    return load
