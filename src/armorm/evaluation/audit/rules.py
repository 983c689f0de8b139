"""Rules that an audit or a diff must keep, such as ``length_correlation>0.2``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from armorm.errors import RecipeError, did_you_mean
from armorm.evaluation.audit.statistics import Estimate

Verdict = Literal["kept", "unsure", "broken", "unknown"]

_RULE = re.compile(
    # Of a group in parentheses the name can hold anything.
    r"\s*([^<>=(]+?(?:\(.+\))?)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A bound that a figure must not cross.

    Attributes:
        figure: Name of the figure.
        above: The rule fails above the bound; else below it.
        bound: The bound.
        text: The rule as it was given.
        at_bound: It also fails at the bound itself.
    """

    figure: str
    above: bool
    bound: float
    text: str
    at_bound: bool = False

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Parse a rule.

        Raises:
            RecipeError: It is not of the form ``figure>bound`` or ``figure<bound``.

        Example:
            >>> rule = Rule.parse("flip_rate(markdown) > 0.1")
            >>> rule.figure, rule.above, rule.bound
            ('flip_rate(markdown)', True, 0.1)
        """
        found = _RULE.fullmatch(text)
        try:
            bound = float(found[3]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise RecipeError(
                f"--fail-on {text}: write it as FIGURE>NUMBER or FIGURE<NUMBER, such as "
                "'length_correlation>0.2'."
            )
        return cls(found[1], found[2].startswith(">"), bound, text, "=" in found[2])


@dataclass(frozen=True, slots=True)
class RuleResult:
    """A rule with the figure it was applied to.

    Attributes:
        rule: The rule as it was given.
        estimate: The figure.
        verdict: ``broken`` if the whole interval is beyond the bound; ``unsure`` if only the
            estimate is; ``unknown`` if the data do not determine the figure; else ``kept``.
        fails: The command fails.
    """

    rule: str
    estimate: Estimate
    verdict: Verdict
    fails: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)

    def __str__(self) -> str:
        """Return a line for people."""
        found = self.estimate.text(3)
        said = {
            "kept": "kept",
            "broken": "BROKEN",
            "unsure": "beyond the bound, but its interval is not",
            "unknown": "the data do not determine it",
        }[self.verdict]
        return f"{self.rule}: {found}: {said}{' (fails)' if self.fails else ''}"


def check_kinds(rules: Sequence[Rule], kinds: Sequence[str]) -> None:
    """Check that rules name figures of these kinds, before anything is computed.

    Raises:
        RecipeError: One does not.

    Example:
        >>> rules = [Rule.parse("flip_rat(markdown)>0.1")]
        >>> check_kinds(rules, ["accuracy", "flip_rate"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        armorm.errors.RecipeError: ...: there is no figure 'flip_rat'. Did you mean 'flip_rate'?
    """
    for rule in rules:
        _check(rule, rule.figure.partition("(")[0], kinds)


def check_names(rules: Sequence[Rule], names: Collection[str]) -> None:
    """Check that rules name these figures, before anything is scored.

    Raises:
        RecipeError: One does not.
    """
    for rule in rules:
        _check(rule, rule.figure, names)


def _check(rule: Rule, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise RecipeError(
            f"--fail-on {rule.text}: there is no figure {name!r}. {did_you_mean(name, known)}"
        )


def apply_rules(
    rules: Sequence[Rule], figures: Mapping[str, Estimate], *, strict: bool = False
) -> list[RuleResult]:
    """Apply rules to figures.

    Args:
        rules: The rules.
        figures: Figures by name.
        strict: Also fail where only the estimate is beyond the bound, or there is none.

    Raises:
        RecipeError: There is no such figure.

    Example:
        >>> figures = {"length_correlation": Estimate(0.22, 0.17, 0.27)}
        >>> rules = [Rule.parse(f"length_correlation>{bound}") for bound in (0.1, 0.2, 0.3)]
        >>> [one.verdict for one in apply_rules(rules, figures)]
        ['broken', 'unsure', 'kept']
    """
    check_names(rules, figures)
    return [_apply(rule, figures[rule.figure], strict) for rule in rules]


def _apply(rule: Rule, found: Estimate, strict: bool) -> RuleResult:
    verdict: Verdict = "kept"
    nearest = found.low if rule.above else found.high
    if found.value is None:
        verdict = "unknown"
    elif _beyond(rule, found.value):
        # Without an interval the estimate is all there is.
        verdict = "broken" if nearest is None or _beyond(rule, nearest) else "unsure"
    return RuleResult(
        rule.text, found, verdict, verdict == "broken" or (strict and verdict != "kept")
    )


def _beyond(rule: Rule, value: float) -> bool:
    if value == rule.bound:
        return rule.at_bound
    return value > rule.bound if rule.above else value < rule.bound
