"""How a program ends that its user has to help: with what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from swin_ext.utils.errors import UserError

SHOW_ALL = 'SWIN_EXT_TRACEBACK'
_HIDDEN = (
    'the traceback is in {log}; on the terminal with {variable}=1',
    'for the traceback, set {variable}=1',
)
# What torch makes of an exception in a worker process: its traceback is a part of its text.
_IN_WORKER = re.compile(r'Caught (\w+) in .*?\.\nOriginal Traceback', re.DOTALL)
_NOT_REGISTERED = re.compile(r'^(\S+) is not in the (?:\w+::)?(.+?) registry')


def run_tool(main: Callable[[], int | None]) -> int:
    """Run the `main` of a command-line tool and return the exit status of the process.

    What a user can mend (see `user_error`) is shown as a short block, and the status is 1. Other
    exceptions are left alone, and so is how argparse refuses arguments (status 2).
    """
    try:
        return main() or 0
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        return 130  # as of a program that SIGINT ends
    except Exception as error:
        if not show(error):
            raise
        return 1


def install_excepthook(
    log_traceback: Callable[[str], str | None] = lambda text: None,
    is_first: Callable[[BaseException], bool] = lambda error: True,
) -> None:
    """Let uncaught exceptions that a user can mend end the process with a short block.

    For programs whose `main` is not ours, as mmdet's scripts. Other exceptions go to the hook that
    was there before the first call; a later call replaces what an earlier one gave.

    Args:
        log_traceback: Keeps the text of a traceback and returns the file that it is in, if any.
        is_first: Whether this process is the one that tells, of those that meet the given error
            together.
    """
    previous = getattr(sys.excepthook, 'previous', sys.excepthook)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not show(error, log_traceback, is_first):
            previous(kind, error, trace)

    hook.previous = previous
    sys.excepthook = hook


def show(
    error: BaseException,
    log_traceback: Callable[[str], str | None] = lambda text: None,
    is_first: Callable[[BaseException], bool] = lambda error: True,
) -> bool:
    """Write the block of an exception to stderr; False if it is none that a user can mend."""
    found = user_error(error)
    if found is None:
        return False
    if not is_first(error):
        return True
    name, text = found
    trace = ''.join(traceback.format_exception(type(error), error, error.__traceback__))
    log = log_traceback(trace)
    sys.stdout.flush()
    if os.environ.get(SHOW_ALL, '0') not in ('', '0'):
        print(trace, file=sys.stderr)
        where = name
    else:
        where = f'{name}; ' + _HIDDEN[log is None].format(log=log, variable=SHOW_ALL)
    print(f'\nError: {text.strip()}\n({where})', file=sys.stderr, flush=True)
    return True


def user_error(error: BaseException) -> tuple[str, str] | None:
    """Class name and text of what a user can mend, if an exception is such, or caused by such.

    These are the errors of this package (`UserError`), files that are missing or not accessible,
    and names that a config gives and no registry of MMEngine knows. An exception that a data loader
    brings from a worker process counts as the one that was raised there.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        found = _from_worker(error) or _described(error)
        if found:
            return found
        error = error.__cause__
    return None


def _described(error: BaseException) -> tuple[str, str] | None:
    name = type(error).__name__
    if isinstance(error, UserError):
        return name, _text(error)
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return name, f'{_without_number(error)} (working directory: {os.getcwd()}).'
    if isinstance(error, PermissionError) and error.filename is not None:
        return name, f'{_without_number(error)}.'
    if isinstance(error, KeyError):
        missing = _NOT_REGISTERED.match(_text(error))
        if missing:
            return name, _not_registered(*missing.groups())
    return None


def _from_worker(error: BaseException) -> tuple[str, str] | None:
    """The same for an exception with the text that `torch._utils.ExceptionWrapper` gives it."""
    text = _text(error)
    caught = _IN_WORKER.match(text)
    if not caught:
        return None
    # The traceback ends with `module.Class: text`; the module is left out for built-in classes.
    raised = list(re.finditer(rf'^((?:\w+\.)*){caught[1]}: ', text, re.MULTILINE))
    if not raised:
        return None
    module = sys.modules.get(raised[-1][1].rstrip('.') or 'builtins')
    kind = getattr(module, caught[1], type(error))
    original = text[raised[-1].end() :]
    if issubclass(kind, UserError):
        return caught[1], original
    if issubclass(kind, OSError):
        # The number and the file's name went into the text.
        return _described(FileNotFoundError(original)) if kind is FileNotFoundError else None
    if kind is KeyError:
        return _described(KeyError(original.strip().strip('\'"')))
    return None


def _text(error: BaseException) -> str:
    """The text of an exception; that of a `KeyError` would be in quotes."""
    return str(error.args[0]) if len(error.args) == 1 else str(error)


def _without_number(error: OSError) -> str:
    text = re.sub(r'^\[Errno \d+\] ', '', str(error))
    return text.rstrip('.')


def _not_registered(name: str, registry: str) -> str:
    text = f"The config names the type '{name}', which is not in the {registry} registry."
    near = difflib.get_close_matches(name, _registered(registry), n=3)
    if near:
        return f'{text}\nNearest: {", ".join(near)}.'
    return (
        f'{text}\nCorrect its spelling, or import the module that defines it: '
        "custom_imports=dict(imports=['my_module'])."
    )


def _registered(registry: str) -> set[str]:
    """The names in a registry of MMEngine and in those of other packages below it."""
    roots = vars(sys.modules.get('mmengine.registry', object)).values()
    return {
        name
        for root in roots
        if getattr(root, 'name', None) == registry and hasattr(root, 'module_dict')
        for part in (root, *root.children.values())
        for name in part.module_dict
    }
