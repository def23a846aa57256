"""What each training may use: a time or a number of iterations."""

from __future__ import annotations

import re
from dataclasses import dataclass

from swin_ext.experiments.errors import ExperimentError

SECONDS = {'s': 1, 'min': 60, 'h': 3600}


@dataclass(frozen=True)
class Budget:
    """A time by a clock ('wall' or 'cpu'), or a number of iterations.

    Attributes:
        text: As the user wrote it.
    """

    text: str
    seconds: float | None
    iterations: int | None
    clock: str

    def of_hook(self) -> dict:
        """Arguments of `BudgetHook`."""
        if self.iterations is not None:
            return dict(iterations=self.iterations, clock=self.clock)
        return dict(seconds=self.seconds, clock=self.clock)

    def describe(self) -> str:
        if self.iterations is not None:
            return f'{self.iterations} iterations'
        clock = dict(cpu='processor time', wall='wall time')[self.clock]
        return f'{self.text} of {clock}, without validations'


def parse_budget(text: str, clock: str) -> Budget:
    """Read '20min', '90s', '1.5h' or '500it'.

    Raises:
        ExperimentError: If it is none of these, or nothing.
    """
    match = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*(s|min|h|it)\s*', text)
    if match is None or not float(match[1]) or match[2] == 'it' and '.' in match[1]:
        raise ExperimentError(
            f'--budget {text!r}: give a time, as 90s, 20min or 1.5h, or a number of iterations, as '
            '500it.'
        )
    number, unit = float(match[1]), match[2]
    if unit == 'it':
        return Budget(text.strip(), None, int(number), clock)
    return Budget(text.strip(), number * SECONDS[unit], None, clock)
