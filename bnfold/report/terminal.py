"""Tables as text: on a terminal in its width and with emphasis, else as plain lines."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from typing import TextIO

from ..printable import printable
from .tables import Table


def write_text(tables: Iterable[Table], stream: TextIO) -> None:
    """Tables on a terminal in its width and with emphasis, else as plain lines in which no name is cut.

    What is not printable in a cell or a heading is escaped here.
    """
    told = map(_printable, tables)
    if stream.isatty():
        _write_rich(told, stream)
        return
    for table in told:
        stream.write("\n".join([*_plain_lines(table), ""]))


def _printable(table: Table) -> Table:
    rows = [list(map(printable, row)) for row in table.rows]
    return Table(printable(table.heading), list(map(printable, table.columns)), rows)


def _plain_lines(table: Table) -> Iterator[str]:
    if table.heading:
        yield table.heading
    rows = [table.columns, *table.rows] if table.columns and table.rows else table.rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _write_rich(tables: Iterable[Table], stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    width, height = shutil.get_terminal_size()
    console = Console(file=stream, highlight=False, width=width, height=height)
    for table in tables:
        if table.heading:
            console.print(Text(table.heading, "bold"))
        shown = RichTable(
            box=box.SIMPLE_HEAD if table.columns else None, show_header=bool(table.columns), pad_edge=True
        )
        for column in table.columns or [""]:
            shown.add_column(Text(column), overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        if table.rows:
            console.print(shown)
