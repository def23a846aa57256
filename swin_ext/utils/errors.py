"""The base of all errors that a user can cause."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave is wrong: a file, a config, an argument.

    Its text says what is wrong, where (file, key, id) and what to do. Errors of this package
    derive from it and from the built-in exception that fits; whoever started the program shows
    them without a traceback.
    """
