"""Measures of a response's text that the monitor can watch."""

from __future__ import annotations

from armorm.text_measures import (
    TEXT_MEASURES,
    TextMeasure,
    count_bold,
    count_code_blocks,
    count_headings,
    count_list_items,
)

_MARKS = (count_list_items, count_headings, count_bold, count_code_blocks)


def markup_share(text: str) -> float:
    r"""Return the markdown marks (list items, headings, bold, code blocks) per line of text.

    Example:
        >>> markup_share("# Title\n- one\n- two\nand plain text")
        0.75
    """
    lines = sum(bool(line.strip()) for line in text.splitlines())
    return sum(count(text) for count in _MARKS) / max(lines, 1)


MEASURES: dict[str, TextMeasure] = {
    **TEXT_MEASURES,
    "markup": TextMeasure("markup", "markdown marks per line", markup_share),
}
"""The measures by name: those of :mod:`armorm.text_measures`, and ``markup``."""
