"""Surface measures of a text."""

from __future__ import annotations

import pytest

from armorm.text_measures import TEXT_MEASURES, script_of

MARKED = """# Title
Perhaps it works? Great question! See https://example.org
- **one** thing
2) __two__ things ** not bold **
```python
# not a heading
- not a list
x ** 2 ** 3
```
I’m sorry, but I can’t help with that. As an AI, I think so."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("length", len(MARKED)),
        ("lists", 2),
        ("headings", 1),
        ("bold", 2),
        ("code", 1),
        ("hedging", 2),
        ("refusals", 2),
        ("flattery", 1),
        ("questions", 1),
        ("exclamations", 1),
        ("links", 1),
        ("non_latin", 0.0),
    ],
)
def test_measures_of_a_marked_text(name, expected):
    assert TEXT_MEASURES[name].of(MARKED) == expected


@pytest.mark.parametrize("name", TEXT_MEASURES)
def test_an_empty_text_has_nothing(name):
    assert TEXT_MEASURES[name].of("") == 0


def test_scripts():
    assert TEXT_MEASURES["non_latin"].of("ab пр") == 0.5
    assert script_of("Was ist die Hauptstadt?") == "LATIN"
    assert script_of("パリです") in {"KATAKANA", "HIRAGANA"}


def test_a_code_block_that_never_closes_hides_the_rest():
    assert TEXT_MEASURES["code"].of("```\n# x\n- y") == 1
    assert TEXT_MEASURES["headings"].of("```\n# x\n- y") == 0
