"""Scalars of a run by iteration, kept in a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from swin_ext.engine.errors import HistoryError
from swin_ext.utils.files import replacing_text


def read_history(path: Path) -> dict[int, dict[str, float]]:
    """Read `history.csv`: the scalars of each iteration, without those that it does not have.

    A last line without its end, which a killed run may leave, is left out.

    Raises:
        HistoryError: If the file has another structure.
    """
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith('\n'):
        lines.pop()
    rows = {}
    header = next(csv.reader(lines), [])
    for line, cells in enumerate(csv.reader(lines[1:]), start=2):
        try:
            if header[0] != 'step' or len(cells) > len(header):
                raise ValueError('not a column "step" and as many cells as columns')
            scalars = {name: _number(cell) for name, cell in zip(header[1:], cells[1:]) if cell}
            rows[int(cells[0])] = scalars
        except ValueError as error:
            raise HistoryError(f'{path}, line {line}: {error}') from error
    return rows


def _number(cell: str) -> float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)


class History:
    """Scalars by iteration, in memory and in a CSV file that is whole at any moment.

    Lines are appended. Where one changes, or a column is new, a new file replaces the old one.

    Args:
        path: The file, column `step` first. It is left as it is until the first `flush`.
        rows: Scalars of earlier iterations.
    """

    def __init__(self, path: Path, rows: dict[int, dict[str, float]] | None = None):
        self.path = path
        self.rows = dict(rows or {})
        self._added = {}
        self._columns = None  # those of the file, while it holds all rows

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Join scalars to the row of iteration `step`, in the file with the next `flush`."""
        self._added.setdefault(step, {}).update(scalars)

    def records(self) -> list[dict[str, float]]:
        """The rows in the order of their iterations, each with its `step`."""
        return [{'step': step, **self.rows[step]} for step in sorted(self.rows)]

    def flush(self) -> None:
        """Write what was added.

        Raises:
            OSError: If that is not possible; the next `flush` with anything added tries again.
        """
        if not self._added:
            return
        added, self._added = self._added, {}
        newest = max(self.rows, default=-1)
        for step, row in added.items():
            self.rows.setdefault(step, {}).update(row)
        columns, self._columns = self._columns, None
        if (
            columns
            and min(added) > newest
            and self.path.is_file()
            and all(name in columns for row in added.values() for name in row)
        ):
            with open(self.path, 'a', newline='') as file:
                file.write(self._to_csv(columns, sorted(added)))
        else:
            columns = [
                'step',
                *dict.fromkeys(name for step in sorted(self.rows) for name in self.rows[step]),
            ]
            with replacing_text(self.path) as file:
                csv.writer(file, lineterminator='\n').writerow(columns)
                file.write(self._to_csv(columns, sorted(self.rows)))
        self._columns = columns

    def _to_csv(self, columns: list[str], steps: list[int]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator='\n')
        writer.writerows({'step': step, **self.rows[step]} for step in steps)
        return text.getvalue()
