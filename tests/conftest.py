"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiny_model import TinyModel
from toy_cmr import ToyCMR

# Another place is given by the environment variable CMR_TEST_DATA.
REAL_DATA = Path(os.environ.get('CMR_TEST_DATA') or Path(__file__).parents[2] / 'shared' / 'data')


@pytest.fixture
def real_data() -> Path:
    """Folder of the real cardiac MR sets, which are not part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f'real cardiac MR data is not at {REAL_DATA}')
    return REAL_DATA


@pytest.fixture
def toy_cmr(tmp_path) -> ToyCMR:
    return ToyCMR(tmp_path / 'toy_cmr')


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> TinyModel:
    """A trained model; its files must be left as they are."""
    return TinyModel(tmp_path_factory.mktemp('tiny_model'))
