"""All that is wrong with a config, at once."""

from __future__ import annotations

from dataclasses import dataclass

from swin_ext.utils.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `path` is where, in dots as `--cfg-options` takes it."""

    path: str
    what: str
    remedy: str

    def __str__(self) -> str:
        end = '' if self.remedy.endswith('?') else '.'
        return f'{self.path}: {self.what}. {self.remedy}{end}'


class ConfigError(UserError, ValueError):
    """A config says what nothing reads, or what contradicts itself.

    Attributes:
        problems: Each `Problem` of the config.
    """

    def __init__(self, problems: list[Problem], filename: str | None = None) -> None:
        self.problems = list(problems)
        count = '1 problem' if len(self.problems) == 1 else f'{len(self.problems)} problems'
        lines = [f'The config{f" {filename}" if filename else ""} has {count}:']
        super().__init__('\n'.join(lines + [f'  {problem}' for problem in self.problems]))

    def __reduce__(self):
        return _unpickled, (type(self), self.problems, self.args)


def _unpickled(kind: type, problems: list[Problem], args: tuple) -> ConfigError:
    error = kind(problems)
    error.args = args
    return error
