"""Rules that an audit must keep."""

from __future__ import annotations

import pytest

from armorm.errors import RecipeError
from armorm.evaluation.audit.rules import Rule, apply_rules
from armorm.evaluation.audit.statistics import Estimate

FIGURES = {
    "length_correlation": Estimate(0.22, 0.17, 0.27),
    "flip_rate(markdown)": Estimate(0.05, 0.02, 0.12),
    "bold_correlation": Estimate(None),
    "accuracy": Estimate(0.7),
    "accuracy(a<b)": Estimate(0.4),
}


@pytest.mark.parametrize(
    ("rule", "verdict", "fails", "fails_strictly"),
    [
        ("length_correlation>0.1", "broken", True, True),
        ("length_correlation > 0.2", "unsure", False, True),
        ("length_correlation>=.3", "kept", False, False),
        ("accuracy>=0.7", "broken", True, True),
        ("accuracy>0.7", "kept", False, False),
        ("accuracy(a<b)<0.5", "broken", True, True),
        ("length_correlation<0.3", "broken", True, True),
        ("flip_rate(markdown)>0.1", "kept", False, False),
        ("bold_correlation>0.1", "unknown", False, True),
        ("accuracy<7.1e-1", "broken", True, True),
    ],
)
def test_verdicts(rule, verdict, fails, fails_strictly):
    (found,) = apply_rules([Rule.parse(rule)], FIGURES)
    assert (found.verdict, found.fails) == (verdict, fails)
    (strict,) = apply_rules([Rule.parse(rule)], FIGURES, strict=True)
    assert strict.fails == fails_strictly


@pytest.mark.parametrize(
    "text", ["", "length", "length>", ">0.2", "a=3", "a>b", "a>1.2.3", "a>nan", "a>>1"]
)
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(RecipeError, match="FIGURE>NUMBER"):
        Rule.parse(text)


def test_an_unknown_figure_names_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean 'length_correlation'"):
        apply_rules([Rule.parse("lenght_correlation>0")], FIGURES)
