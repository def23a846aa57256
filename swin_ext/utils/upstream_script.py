"""mmdet's own scripts, with errors that are explained and a `--help` that does not take long."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import runpy
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

from swin_ext.utils.program import install_excepthook


def run_mmdet_script(name: str) -> None:
    """Run `mmdet/.mim/tools/NAME` as `__main__`, with the arguments of this process."""
    script = Path(find_spec('mmdet').origin).parent / '.mim' / 'tools' / name
    if not {'-h', '--help'}.isdisjoint(sys.argv[1:]):
        print_help(script)
    install_excepthook()
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # MMEngine uses it
    importlib.import_module('swin_ext.registration')
    runpy.run_path(str(script), run_name='__main__')


def print_help(script: Path) -> None:
    """Let a script's function `parse_args` see the arguments, without its imports of torch.

    Raises:
        SystemExit: By argparse, after the help is printed.
    """
    functions = [
        node
        for node in ast.parse(script.read_text(encoding='utf-8')).body
        if isinstance(node, ast.FunctionDef) and node.name == 'parse_args'
    ]
    names = dict(argparse=argparse, os=os, DictAction=argparse.Action)
    exec(compile(ast.Module(functions, []), str(script), 'exec'), names)
    names['parse_args']()
