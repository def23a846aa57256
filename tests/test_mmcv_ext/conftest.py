from importlib.machinery import EXTENSION_SUFFIXES

import mmcv._ext
import pytest


@pytest.fixture(autouse=True)
def not_compiled():
    if mmcv._ext.__file__.endswith(tuple(EXTENSION_SUFFIXES)):
        pytest.skip(f'the ops in use are not ours but compiled ones: {mmcv._ext.__file__}')
