"""Reads the text of a config that a checkpoint carries, without running it."""

from __future__ import annotations

import ast
from typing import Any

from swin_ext.checkpoint.safe_reading import CheckpointError


def read_config_text(text: str, name: str) -> dict[str, Any]:
    """Values by name of what `mmengine.Config.pretty_text` wrote.

    That text is Python, which MMEngine would run; here it may hold nothing but assignments of
    literals and of `dict(...)`.

    Args:
        text: Lines such as ``model = dict(type='MaskRCNN')``.
        name: What errors call the file that has it.

    Raises:
        CheckpointError: If it holds anything else.
    """
    try:
        statements = ast.parse(text).body
        return dict(_assigned(statement) for statement in statements)
    except (SyntaxError, ValueError) as error:
        raise CheckpointError(
            f'The config in {name} was not read: {error}. It may hold names, numbers, texts, lists '
            'and dicts alone, as MMEngine writes them; nothing of it was run.'
        ) from error


def _assigned(statement: ast.stmt) -> tuple[str, Any]:
    if (
        isinstance(statement, ast.Assign)
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Name)
    ):
        return statement.targets[0].id, _value(statement.value)
    raise ValueError(f'line {statement.lineno} is no assignment to one name')


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        is_dict = isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args
        if not is_dict or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f'line {node.lineno} calls something')
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(item) for item in node.elts)
    return ast.literal_eval(node)
