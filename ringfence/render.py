"""What commands print: lines and tables for people, one JSON object a line for scripts.

Every text goes through `ringfence.escaping` on its way to the terminal; there is no way around it, since callers hand
over plain strings with the name of a style and never markup. Colours mean something: green went through, yellow waits
for people, red was refused or failed, cyan is a name to copy, dim is the agent's or the machine's own chatter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ringfence.escaping import visible
from ringfence_audit.events import JsonValue

Style: TypeAlias = Literal["", "good", "wait", "bad", "name", "dim", "bold"]
Span: TypeAlias = "str | tuple[str, Style]"

_COLOURS: Mapping[Style, str] = {
    "": "",
    "good": "green",
    "wait": "yellow",
    "bad": "red",
    "name": "cyan",
    "dim": "dim",
    "bold": "bold",
}


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command speaks. With `is_json` people's lines are left out and only `record` prints."""

    console: Console
    is_json: bool = False

    @property
    def is_interactive(self) -> bool:
        """A person can be asked: both ends are a terminal and nobody wants JSON."""
        return not self.is_json and self.console.is_terminal and sys.stdin.isatty()

    @property
    def width(self) -> int:
        return self.console.width

    def line(self, *spans: Span) -> None:
        """One line for people."""
        if not self.is_json:
            self.console.print(_text(spans), soft_wrap=True)

    def block(self, text: str, style: Style = "", *, indent: str = "") -> None:
        """Several lines for people, each escaped, with its newlines kept."""
        for part in text.splitlines():
            self.line(indent, (part, style))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Span]]) -> None:
        """Rows under a heading. The last column takes what width is left and folds."""
        if self.is_json:
            return
        table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
        for at, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=at < len(columns) - 1)
        for row in rows:
            table.add_row(*(_text((cell,)) for cell in row))
        self.console.print(table)

    def record(self, value: Mapping[str, JsonValue]) -> None:
        """One object for scripts. ASCII only, so that nothing in it can act on a terminal."""
        if self.is_json:
            self.console.file.write(json.dumps(value, ensure_ascii=True, separators=(", ", ": ")) + "\n")
            self.console.file.flush()


def make_output(*, is_json: bool = False, file: IO[str] | None = None) -> Output:
    """An output on `file`, or on standard output. NO_COLOR is respected (no-color.org)."""
    console = Console(file=file, markup=False, highlight=False, emoji=False)
    return Output(console, is_json)


def _text(spans: Iterable[Span]) -> Text:
    text = Text()
    for span in spans:
        if isinstance(span, str):
            text.append(visible(span))
        else:
            text.append(visible(span[0]), style=_COLOURS[span[1]])
    return text


def money(micro_usd: int) -> str:
    """`$0.0123`: four places, enough for the price of one call."""
    return f"${micro_usd / 1_000_000:.4f}"


def span_of_time(seconds: float) -> str:
    """`5s`, `3m20s`, `3h51m`, `2d4h`."""
    left = max(int(seconds), 0)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if left >= size:
            rest = (left % size) // lower_size
            return f"{left // size}{unit}{rest}{lower}" if rest else f"{left // size}{unit}"
    return f"{left}s"
