"""Labels of a response that are computed from its text, in place of ratings.

Every response has them, so an objective that is fitted on them is predicted well where ratings of
the same quality are few: the length of a response is the confounder that debiasing removes best.
Counts enter as log(1 + count), since the step from 1 to 2 list items is more than that from 20 to
21.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from armorm.text_measures import TEXT_MEASURES

CountTokens = Callable[[str], int]
"""Function that returns the number of tokens of a text."""


@dataclass(frozen=True, slots=True)
class ComputedLabel:
    """A kind of label that is computed.

    Attributes:
        name: Name in recipes (``computed: log_tokens``).
        about: What it measures, for a table.
        of: Function from a response's text and the backbone's token counter to the label.
    """

    name: str
    about: str
    of: Callable[[str, CountTokens], float]


def _log_tokens(text: str, count_tokens: CountTokens) -> float:
    return math.log1p(count_tokens(text))


def _log_measure(measure: str, text: str, _: CountTokens) -> float:
    return math.log1p(TEXT_MEASURES[measure].of(text))


COMPUTED_LABELS: dict[str, ComputedLabel] = {
    label.name: label
    for label in (
        ComputedLabel("log_tokens", "log(1 + tokens of the backbone's tokenizer)", _log_tokens),
        ComputedLabel("log_characters", "log(1 + characters)", partial(_log_measure, "length")),
        *(
            ComputedLabel(name, f"log(1 + {measure.about})", partial(_log_measure, name))
            for name, measure in TEXT_MEASURES.items()
            if name != "length"
        ),
    )
}
"""The kinds by name."""
