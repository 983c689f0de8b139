"""Text for a terminal: what data contains never controls it."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # reorder or hide text
    "\u2028\u2029\ud800-\udfff]"  # line separators and half characters
)


def clean(text: str) -> str:
    r"""Return the text with control characters and invisible characters written as escapes.

    Escape sequences of data would otherwise move the cursor, recolour or retitle the terminal, and
    marks of writing direction would show text in another order than it has.

    Example:
        >>> clean("\x1b[31mred")
        '\\x1b[31mred'
    """
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def print_line(text: str, *, error: bool = False) -> None:
    """Write one line to standard output, or to standard error."""
    stream = sys.stderr if error else sys.stdout
    stream.write(clean(text) + "\n")


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON; unsafe characters become JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    escaped = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    sys.stdout.write(escaped + "\n")


def make_console() -> Console:
    """Return a console for tables, with the text in every cell cleaned."""
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class CleanConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else clean(text), style, control)

    return CleanConsole()
