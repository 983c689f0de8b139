"""The findings of audits and diffs as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from armorm.evaluation.audit.correlations import LENGTH, CorrelationReport
from armorm.evaluation.audit.counterfactuals import ChangeReport, CounterfactualReport
from armorm.evaluation.audit.differences import DiffReport
from armorm.evaluation.audit.running import AuditReport
from armorm.evaluation.audit.statistics import Estimate

NOTABLE = 0.1
"""Least absolute correlation, and least shift in standard deviations, that is called a finding."""
_MOST_CHANGES = 5


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of the summary.

    Attributes:
        kind: ``finding`` for what the reward pays for and should not, ``fine`` for what was looked
            for and not found, ``note`` for the rest.
        text: The sentence.
    """

    kind: Literal["finding", "fine", "note"]
    text: str


def in_words(report: AuditReport) -> list[Sentence]:
    """Return the summary of an audit, findings in the order of the detectors."""
    return [
        *_labels(report),
        *_surface(report.correlations),
        *_changes(report.counterfactuals),
        *_erasure(report),
        *_objectives(report),
    ]


def _labels(report: AuditReport) -> Iterator[Sentence]:
    labels = report.labels
    yield Sentence(
        "note",
        f"It ranks {labels.accuracy.text(percent=True)} of {report.pairs:,} pairs as labelled.",
    )
    error = labels.calibration_error
    if error.value is not None:
        kind: Literal["finding", "note"] = "finding" if (error.low or 0.0) > 0.05 else "note"
        yield Sentence(kind, f"Its probabilities are off by {error.text()} on average.")


def _surface(report: CorrelationReport) -> Iterator[Sentence]:
    for name in report.features:
        within = report.within.score[name]
        beyond = report.within_given_length.score[name]
        notable = _notable(within) and (name == LENGTH or _notable(beyond))
        if notable:
            verb = "pays for" if (within.value or 0.0) > 0 else "punishes"
            text = (
                f"This reward {verb} {name}: Spearman {within.text()} between responses to a prompt"
            )
            if name != LENGTH:
                text += f", {beyond.text()} given length"
            kind: Literal["finding", "note"] = "finding" if _beyond_labels(report, name) else "note"
            yield Sentence(kind, f"{text}{_than_labels(report, name)}.")
        elif name == LENGTH and within.value is not None:
            yield Sentence(
                "fine",
                f"No sign that it pays for length: Spearman {within.text()} between responses to a "
                f"prompt{_than_labels(report, name)}.",
            )


def _beyond_labels(report: CorrelationReport, name: str) -> bool:
    """Return true unless the labels prefer the same, as often as the reward does."""
    excess = report.preferences[name].excess
    if name == LENGTH or excess.low is None or excess.high is None:
        return True
    return excess.high < 0.0 if (report.within.score[name].value or 0.0) < 0 else excess.low > 0.0


def _than_labels(report: CorrelationReport, name: str) -> str:
    found = report.preferences[name]
    if found.labels.value is None or found.reward.value is None:
        return ""
    return (
        f"; labels prefer the response with more in {100 * found.labels.value:.0f} % of pairs, "
        f"the reward in {100 * found.reward.value:.0f} %"
    )


def _notable(found: Estimate) -> bool:
    return bool(found.found) and abs(found.value or 0.0) >= NOTABLE


def _changes(report: CounterfactualReport | None) -> Iterator[Sentence]:
    if report is None:
        return
    moved = [one for one in report.changes.values() if _is_finding(one)]
    moved.sort(key=lambda one: -(one.flip_rate.value or 0.0))
    for change in moved[:_MOST_CHANGES]:
        shift = change.shift.value or 0.0
        by = dict(change.through_rewards)
        for name, part in change.through_gate.items():
            by[name] += part
        most = max(by, key=lambda name: by[name] * (1 if shift > 0 else -1), default="")
        yield Sentence(
            "finding",
            f"{change.name}: {change.about} Scores move by {change.shift.text()} standard "
            f"deviations and {change.flip_rate.text(percent=True)} of preferences flip"
            f"{f', most through {most}' if most else ''}.",
        )
    if len(moved) > _MOST_CHANGES:
        rest = ", ".join(change.name for change in moved[_MOST_CHANGES:])
        yield Sentence("finding", f"Scores also move with {rest}.")
    quiet = [name for name, one in report.changes.items() if not _is_finding(one)]
    if quiet:
        yield Sentence("fine", f"No notable move with {', '.join(quiet)}.")


def _is_finding(change: ChangeReport) -> bool:
    shift = change.shift.value or 0.0
    moves = _notable(change.shift) and not (change.expected == "fall" and shift < 0)
    return moves or (change.flip_rate.low or 0.0) > NOTABLE


def _erasure(report: AuditReport) -> Iterator[Sentence]:
    if report.erasure is None:
        return
    row = report.erasure.readable[LENGTH]
    left = row["debiased rewards"]
    found = (left.low or 0.0) > NOTABLE
    yield Sentence(
        "finding" if found else "fine",
        f"A linear probe reads the log length from the debiased rewards with R² {left.text()}, "
        f"from the rewards as predicted {row['rewards'].text()}, from the features "
        f"{row['features'].text()}.",
    )


def _objectives(report: AuditReport) -> Iterator[Sentence]:
    if report.objectives is not None:
        debiased = report.objectives.effective["debiased"]
        yield Sentence(
            "note",
            f"Its {report.objectives.count} objectives vary like {debiased.text(1)} independent "
            "ones.",
        )
    if report.novelty is not None and report.novelty.novel.value is not None:
        novel = report.novelty.novel
        yield Sentence(
            "finding" if (novel.low or 0.0) > NOTABLE else "note",
            f"{novel.text(percent=True)} of the responses are unlike the rated rows.",
        )


def diff_in_words(report: DiffReport) -> list[Sentence]:
    """Return the summary of a diff."""
    whole = report.groups["all"]
    sentences = [_accuracy_change("", whole.drop, whole.old, whole.new)]
    sentences.append(
        Sentence(
            "note",
            f"{whole.flip_rate.text(percent=True)} of {report.scored:,} preferences flip: "
            f"{whole.lost:,} to the wrong side, {whole.gained:,} to the right one.",
        )
    )
    sentences += [
        _accuracy_change(f" on {name}", group.drop, group.old, group.new)
        for name, group in report.groups.items()
        if name != "all" and group.drop.found
    ]
    for label, counts in (("Lost", report.lost_by), ("Gained", report.gained_by)):
        if counts:
            part, count = next(iter(counts.items()))
            total = sum(counts.values())
            text = f"{label} pairs move most by {part} ({count:,} of {total:,})."
            sentences.append(Sentence("note", text))
    return sentences


def _accuracy_change(where: str, drop: Estimate, old: Estimate, new: Estimate) -> Sentence:
    said = f"{100 * (old.value or 0.0):.1f} % → {100 * (new.value or 0.0):.1f} %"
    p = 1.0 if drop.p is None else drop.p
    if not drop.found:
        return Sentence("fine", f"Accuracy{where} {said}: no significant change (p = {p:.2g}).")
    worse = (drop.value or 0.0) > 0
    verb = "falls" if worse else "rises"
    return Sentence(
        "finding" if worse else "fine", f"Accuracy{where} {verb}: {said} (p = {p:.2g})."
    )
