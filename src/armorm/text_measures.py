"""Surface measures of a text: length, markup, phrases and script.

They say nothing of how good a response is, so a reward that follows them follows the surface.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextMeasure:
    """A number that a text has.

    Attributes:
        name: Name in reports and rules.
        about: What it counts, for a table.
        of: Function from a text to its number.
    """

    name: str
    about: str
    of: Callable[[str], float]


_FENCE = re.compile(r"^[ \t]{0,3}(```+|~~~+).*?(?:^[ \t]{0,3}\1|\Z)", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    """Return the text without its fenced code blocks, whose ``#`` and ``*`` are not markup."""
    return _FENCE.sub("", text)


def count_code_blocks(text: str) -> int:
    r"""Return the number of fenced code blocks; one that is never closed counts.

    Example:
        >>> count_code_blocks("Run this:\n```sh\nls\n```\nand this:\n```\npwd\n```")
        2
    """
    return len(_FENCE.findall(text))


def count_headings(text: str) -> int:
    r"""Return the number of markdown headings, ``#`` to ``######``.

    Example:
        >>> count_headings("# Title\ntext\n## Part\n```sh\n# a comment\n```")
        2
    """
    if "#" not in text:  # most texts, at a hundredth of the time
        return 0
    return len(re.findall(r"^[ \t]{0,3}#{1,6}[ \t]+\S", without_code(text), re.MULTILINE))


def count_list_items(text: str) -> int:
    r"""Return the number of list items, with a bullet or a number.

    Example:
        >>> count_list_items("- one\n* two\n3. three\n-5 degrees")
        3
    """
    pattern = r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S"
    return len(re.findall(pattern, without_code(text), re.MULTILINE))


def count_bold(text: str) -> int:
    """Return the number of passages in bold type.

    Example:
        >>> count_bold("**Note**: 2 ** 3 is __eight__")
        2
    """
    if "**" not in text and "__" not in text:
        return 0
    pattern = r"\*\*(?=\S)(?:(?!\*\*).)+?(?<=\S)\*\*|(?<!\w)__(?=\S)(?:(?!__).)+?(?<=\S)__(?!\w)"
    return len(re.findall(pattern, without_code(text)))


def _occurrences(pattern: str) -> Callable[[str], int]:
    compiled = re.compile(pattern)
    return lambda text: len(compiled.findall(text))


def _phrases(*patterns: str) -> Callable[[str], int]:
    compiled = re.compile(rf"\b(?:{'|'.join(patterns)})", re.IGNORECASE)

    def count(text: str) -> int:
        return len(compiled.findall(text.replace("’", "'")))

    return count


count_hedges = _phrases(
    r"(?:maybe|perhaps|possibly|probably|presumably|arguably|apparently|likely|might)\b",
    r"it (?:seems|appears|depends|may be|could be)\b",
    r"(?:i'm|i am) not (?:entirely |completely |quite )?(?:sure|certain)\b",
    r"i (?:think|believe|guess|suppose)\b",
    r"as far as i (?:know|can tell)\b",
    r"to (?:the best of my knowledge|some extent)\b",
)
"""Count the phrases that make a claim uncertain, such as "perhaps" and "I think"."""

count_refusals = _phrases(
    r"i(?: can't| cannot| can not| won't| will not|'m unable to| am unable to|'m not able to"
    r"| am not able to) (?:help|assist|provide|answer|comply|do that|support|offer|share|give"
    r"|create|write|discuss|fulfil)",
    r"(?:i'm |i am )?sorry,? (?:but )?i(?: can't| cannot| can not| won't| will not| am unable"
    r"|'m unable)",
    r"i must (?:decline|refuse)\b",
    r"as an ai\b",
    r"against my (?:guidelines|programming|policy)\b",
)
"""Count the phrases that refuse, such as "I cannot help with that"."""

count_praise = _phrases(
    r"(?:what an? )?(?:great|excellent|fantastic|wonderful|brilliant|amazing|good|insightful"
    r"|thoughtful) (?:question|point|idea|thinking|observation|choice)\b",
    r"you(?:'re| are) (?:absolutely|completely|totally|so) right\b",
    r"you(?:'re| are) (?:so |very |really |clearly )?(?:smart|brilliant|clever|insightful"
    r"|amazing)\b",
    r"(?:i love|i admire) (?:your|how you|that you)\b",
    r"(?:well done|good job|great job)\b",
)
"""Count the phrases that flatter the reader, such as "Great question"."""


@functools.lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNNAMED").split(" ")[0]


def script_of(text: str) -> str:
    """Return the script that most letters are written in, as Unicode names it, else ``none``.

    Example:
        >>> script_of("Париж?"), script_of("巴黎"), script_of("42")
        ('CYRILLIC', 'CJK', 'none')
    """
    counts: dict[str, int] = {}
    for letter in filter(str.isalpha, text):
        script = _script(letter)
        counts[script] = counts.get(script, 0) + 1
    return max(counts, key=lambda script: (counts[script], script), default="none")


def share_non_latin(text: str) -> float:
    """Return the share of letters that are not in the Latin script; 0 without letters."""
    letters = [letter for letter in text if letter.isalpha()]
    if text.isascii() or not letters:
        return 0.0
    return sum(_script(letter) != "LATIN" for letter in letters) / len(letters)


TEXT_MEASURES: dict[str, TextMeasure] = {
    measure.name: measure
    for measure in (
        TextMeasure("length", "characters", len),
        TextMeasure("lists", "list items", count_list_items),
        TextMeasure("headings", "markdown headings", count_headings),
        TextMeasure("bold", "passages in bold", count_bold),
        TextMeasure("code", "fenced code blocks", count_code_blocks),
        TextMeasure("hedging", "phrases such as “perhaps” and “I think”", count_hedges),
        TextMeasure("refusals", "phrases such as “I cannot help with that”", count_refusals),
        TextMeasure("flattery", "phrases such as “great question”", count_praise),
        TextMeasure("questions", "question marks", _occurrences("[?？]")),
        TextMeasure(
            "exclamations", "exclamation marks", lambda text: len(re.findall("[!！]", text))
        ),
        TextMeasure("links", "web addresses", _occurrences("https?://")),
        TextMeasure("non_latin", "share of letters of other scripts", share_non_latin),
    )
}
"""The measures by name."""
