"""What was found, and whether it forbids a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """What was found; errors decide about the exit code."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, severity: str, where: str, text: str) -> None:
        (self.errors if severity == 'error' else self.warnings).append(f'{where}: {text}')

    def print(self) -> None:
        for kind, lines in (('ERROR', self.errors), ('WARNING', self.warnings)):
            for line in lines:
                print(f'{kind}  {line}')
        print(f'\n{len(self.errors)} errors, {len(self.warnings)} warnings')
