from __future__ import annotations

import json

import pytest

from swin_ext.utils.errors import UserError
from swin_ext.utils.optional import MissingPackageError, import_optional, require


def test_what_is_installed():
    assert import_optional('json', 'The test') is json
    require('json', 'The test')


@pytest.mark.parametrize('get', [require, import_optional])
def test_what_is_missing_is_named_with_its_command(get):
    with pytest.raises(
        MissingPackageError, match='^The test needs no-such-package: pip install no-such-package$'
    ) as raised:
        get('no_such_package', 'The test')
    assert isinstance(raised.value, UserError) and isinstance(raised.value, ModuleNotFoundError)


def test_packages_of_another_name_than_the_module():
    message = '^The test needs one and two: pip install one two$'
    with pytest.raises(MissingPackageError, match=message):
        import_optional('no_such_package.part', 'The test', 'one', 'two')


def test_a_part_of_a_package_is_installed_with_it():
    with pytest.raises(MissingPackageError, match='needs no-such-package: pip install'):
        import_optional('no_such_package.part', 'The test')
