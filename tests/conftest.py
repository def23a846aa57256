"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import mmengine.config
import mmengine.runner.loops
import pytest
from filelock import FileLock

from forked_python import forked_python
from tiny_model import TinyModel
from toy_cmr import ToyCMR

# Another place is given by the environment variable CMR_TEST_DATA.
REAL_DATA = Path(os.environ.get('CMR_TEST_DATA') or Path(__file__).parents[2] / 'shared' / 'data')


# Begun first, for the processes of a run to end at the same time.
LONGEST = ('test_slurm.py', 'test_fault.py', 'test_triton.py', 'test_mim.py', 'test_layout.py')


def pytest_collection_modifyitems(items) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope='session', autouse=True)
def quick_upstream():
    """What upstream takes its time for, and no test looks at."""
    with pytest.MonkeyPatch.context() as patch:
        # Configs are written as Python that yapf has not laid out.
        patch.setattr(mmengine.config.config, 'FormatCode', lambda text, **_: (text, True))
        # Two seconds after each epoch of IterBasedTrainLoop, against a deadlock nobody has seen
        # since: https://github.com/open-mmlab/mmcv/issues/1912
        patch.setattr(mmengine.runner.loops, 'time', SimpleNamespace(sleep=lambda _: None))
        yield


@pytest.fixture
def real_data() -> Path:
    """Folder of the real cardiac MR sets, which are not part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f'real cardiac MR data is not at {REAL_DATA}')
    return REAL_DATA


@pytest.fixture(scope='session')
def quick_python(tmp_path_factory) -> str:
    """A Python to run scripts with whose imports of upstream are made; see `forked_python`."""
    with forked_python(tmp_path_factory.mktemp('python')) as python:
        yield str(python)


@pytest.fixture
def toy_cmr(tmp_path) -> ToyCMR:
    return ToyCMR(tmp_path / 'toy_cmr')


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> TinyModel:
    """A trained model; its files must be left as they are. Trained once for all processes."""
    import swin_ext.registration  # noqa: F401 (where another process has trained it)

    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    made = folder / 'tiny_model.pickle'
    with FileLock(f'{made}.lock'):
        if not made.exists():
            made.write_bytes(pickle.dumps(TinyModel(folder / 'tiny_model')))
    return pickle.loads(made.read_bytes())
