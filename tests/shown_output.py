"""Comparison of an output that a page shows with the one that was printed.

White space counts once, ``...`` stands for any text, and numbers with a decimal point may differ by
5 % or 0.02: another processor rounds differently, and training magnifies it.
"""

from __future__ import annotations

import doctest
import re

NUMBER = re.compile(r"[-+−]?\d[\d,]*\.\d+(?:e[-+]?\d+)?")


def is_as_shown(shown: str, printed: str) -> bool:
    """Return True if the printed text is the shown one, up to the last digits of its numbers."""
    found = re.fullmatch(_pattern(shown), _words(printed), re.DOTALL)
    return found is not None and all(
        abs(_value(is_) - _value(should)) <= 0.02 + 0.05 * abs(_value(should))
        for is_, should in zip(found.groups(), NUMBER.findall(shown), strict=True)
    )


class ShownOutput(doctest.OutputChecker):
    """Compare the output of a doctest's example as that of a page."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or is_as_shown(want, got)


def _pattern(shown: str) -> str:
    literals = [re.escape(part).replace(r"\.\.\.", ".*?") for part in NUMBER.split(_words(shown))]
    return f"({NUMBER.pattern})".join(literals)


def _words(text: str) -> str:
    return " ".join(text.split())


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("−", "-"))
