import pytest

import load_tool as tools


@pytest.fixture(scope='session')
def load_tool():
    return tools.load_tool
