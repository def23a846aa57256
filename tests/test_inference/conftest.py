import logging

import pytest


@pytest.fixture(autouse=True)
def quiet_pydicom(caplog):
    """Some UIDs of Sunnybrook break the rules of UI, which pydicom tells for each."""
    caplog.set_level(logging.ERROR, 'pydicom')
