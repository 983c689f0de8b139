"""Scorecard of the detectors: power and false alarms where the truth is planted.

Prompts and responses are those of the embedded corpus, some of them decorated at random with
markup, flattery and filler.  The reward is noise, drawn by the text, plus a bias of known strength;
with strength 0 everything that a detector marks is a false alarm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.special

from armorm.conversations import PreferencePair
from armorm.evaluation.audit.changes import CHANGES, chosen_changes
from armorm.evaluation.audit.correlations import correlate
from armorm.evaluation.audit.counterfactuals import change_effects
from armorm.evaluation.audit.differences import compare_scores
from armorm.evaluation.audit.erasure import probe_surface
from armorm.evaluation.audit.labels import compare_with_labels
from armorm.evaluation.audit.planted import PlantedScorer, Reward, noise
from armorm.evaluation.audit.probes import Probed, Scores, probes_of
from armorm.evaluation.audit.statistics import Estimate, share
from armorm.quickstart.corpus import generate_corpus
from armorm.text_measures import TEXT_MEASURES


@dataclass(frozen=True, slots=True)
class ScorecardRow:
    """Alarms of one detector under one planted truth.

    Attributes:
        detector: Name of the detector.
        planted: What was planted.
        strength: How much of it; 0 is nothing.
        unit: Unit of the strength.
        alarms: Share of the corpora in which the detector found it.
    """

    detector: str
    planted: str
    strength: float
    unit: str
    alarms: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


Detector = Callable[[int, float], bool]
"""Takes the number of a corpus and the strength of what is planted; returns the alarm."""


def scorecard(corpora: int = 100, pairs: int = 200) -> Iterator[ScorecardRow]:
    """Yield the alarms of each detector, from nothing planted to much.

    Args:
        corpora: Number of corpora, each with its own seed.
        pairs: Pairs of each.
    """
    made: dict[int, list[PreferencePair]] = {}

    def corpus(seed: int) -> list[PreferencePair]:
        if seed not in made:
            made[seed] = decorated_pairs(seed, pairs)
        return made[seed]

    for name, planted, unit, strengths, detect in _detectors(corpus):
        for strength in strengths:
            found = share([detect(seed, strength) for seed in range(corpora)])
            yield ScorecardRow(name, planted, strength, unit, found)


def decorated_pairs(seed: int, pairs: int) -> list[PreferencePair]:
    """Return pairs of the embedded corpus, decorated at random, without regard to the labels."""
    draw = random.Random(f"scorecard {seed}")
    found = []
    for row in generate_corpus(seed, 0, pairs).preferences:
        texts = [row[side][0]["content"] for side in ("chosen", "rejected")]
        for name in ("filler", "praise", "markdown"):
            texts = [
                CHANGES[name].of("", text, draw.randrange(10**6))[1]  # type: ignore[index]
                if draw.random() < 0.3
                else text
                for text in texts
            ]
        chosen, rejected = texts
        pair = PreferencePair(tuple(row["prompt"]), chosen, rejected, row["id"])
        found.append(replace(pair, subset=row["domain"]))
    return found


Corpus = Callable[[int], list[PreferencePair]]


def _detectors(
    corpus: Corpus,
) -> Iterator[tuple[str, str, str, Sequence[float], Detector]]:
    some = (0.0, 0.25, 0.5, 1.0)
    deviations = "standard deviations of the reward"
    for measure in ("length", "headings", "flattery"):
        place = "within prompts" + ("" if measure == "length" else ", given length")
        yield (
            f"{measure}, {place}",
            f"pay for {measure}",
            deviations,
            some,
            partial(_surface, corpus, measure),
        )
    yield (
        "preference beyond the labels",
        "pay for length",
        deviations,
        some,
        partial(_excess, corpus),
    )
    for change, measure in (("filler", "length"), ("praise", "flattery"), ("markdown", "headings")):
        yield (
            f"counterfactual {change}",
            f"pay for {measure}",
            deviations,
            some,
            partial(_changed, corpus, change, measure),
        )
    yield (
        "probe of the rewards",
        "length in a reward",
        "correlation",
        (0.0, 0.2, 0.4, 0.8),
        partial(_probe, corpus),
    )
    yield (
        "calibration error above 0.05",
        "overconfidence",
        "log of the factor on the margins",
        (0.0, 0.5, 1.0),
        _calibration,
    )
    yield (
        "diff, domain code",
        "the gate pays for length there",
        "times the weight of quality",
        (0.0, 1.0, 2.0, 4.0),
        partial(_differs, corpus, "code"),
    )
    yield (
        "diff, any other domain",
        "the same, in code alone",
        "times the weight of quality",
        (0.0, 4.0),
        partial(_differs, corpus, None),
    )


def _standard(measure: str, pairs: Sequence[PreferencePair]) -> Reward:
    """Return a text measure, on the scale where it has mean 0 and deviation 1 over the pairs."""
    of = TEXT_MEASURES[measure].of
    values = np.array([of(text) for pair in pairs for text in pair.responses])
    center, scale = float(values.mean()), float(values.std()) or 1.0
    return lambda text: (of(text) - center) / scale


def _scores(
    pairs: Sequence[PreferencePair], seed: int, measure: str, strength: float, *changes: str
) -> Probed:
    rewards = {"quality": noise(f"quality {seed}"), measure: _standard(measure, pairs)}
    scorer = PlantedScorer(rewards, {"": {"quality": 1.0, measure: strength}})
    probes = probes_of(pairs, chosen_changes(changes) if changes else [], range(len(pairs)), seed)
    return Probed.of(pairs, probes, scorer.score(probes), scorer.objectives)


def _surface(corpus: Corpus, measure: str, seed: int, strength: float) -> bool:
    pairs = corpus(seed)
    scores = _scores(pairs, seed, measure, strength).scores
    everywhere = ["all"] * len(pairs)
    found = correlate(scores, [pair.id for pair in pairs], everywhere, seed=seed)
    scope = found.within if measure == "length" else found.within_given_length
    return bool(scope.score[measure].found)


def _excess(corpus: Corpus, seed: int, strength: float) -> bool:
    pairs = corpus(seed)
    scores = _scores(pairs, seed, "length", strength).scores
    # Labels that length does not decide, so that all of a preference is the reward's own.
    draw = np.random.default_rng(seed)
    swapped = np.repeat(np.where(draw.random(len(pairs)) < 0.5, -1, 1), 2)
    order = np.arange(2 * len(pairs)) ^ (swapped < 0)
    mixed = replace(
        scores,
        score=scores.score[order],
        rewards=scores.rewards[order],
        texts=tuple(scores.texts[place] for place in order),
    )
    everywhere = ["all"] * len(pairs)
    found = correlate(mixed, [pair.id for pair in pairs], everywhere, seed=seed)
    low = found.preferences["length"].excess.low
    return low is not None and low > 0


def _changed(corpus: Corpus, change: str, measure: str, seed: int, strength: float) -> bool:
    probed = _scores(corpus(seed)[:60], seed, measure, strength, change)
    found = change_effects(probed, np.arange(len(probed.pairs)))
    return bool(found.changes[change].shift.found)


def _probe(corpus: Corpus, seed: int, correlation: float) -> bool:
    pairs = corpus(seed)
    scores = _scores(pairs, seed, "length", 0.0).scores
    length = np.log1p([len(text) for text in scores.texts])
    length = (length - length.mean()) / length.std()
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(len(length), 8))
    features[:, 0] *= np.sqrt(1 - correlation**2)
    features[:, 0] += correlation * length
    changed = replace(scores, rewards=features[:, :2])
    found = probe_surface(
        changed, features, np.eye(2, 8), np.eye(2), np.repeat(np.arange(len(pairs)), 2), seed=seed
    )
    low = found.readable["length"]["debiased rewards"].low
    return low is not None and low > 0


def _calibration(seed: int, log_factor: float) -> bool:
    draw = np.random.default_rng(seed)
    n = 1000
    margins = np.abs(draw.normal(size=n))
    right = draw.random(n) < scipy.special.expit(margins)
    score = np.zeros(2 * n)
    score[::2] = np.where(right, margins, -margins) * np.exp(log_factor)
    nothing = np.zeros((2 * n, 0))
    pair = np.repeat(np.arange(n), 2)
    scores = Scores(pair, pair % 2, score, nothing, nothing, nothing, (), ("",) * (2 * n))
    rows = [PreferencePair(({"role": "user", "content": ""},), "", "")] * n
    found = compare_with_labels(scores, rows, ["all"] * n, np.arange(n), 1.0, seed=seed)
    low = found.calibration_error.low
    return low is not None and low > 0.05


def _differs(corpus: Corpus, group: str | None, seed: int, strength: float) -> bool:
    pairs = corpus(seed)
    quality = noise(f"quality {seed}")
    labelled = [
        replace(pair, chosen=chosen, rejected=rejected)
        for pair in pairs
        for chosen, rejected in [sorted(pair.responses, key=quality, reverse=True)]
    ]
    subset = {pair.prompt[-1]["content"]: pair.subset for pair in pairs}

    def model(name: str, length: float) -> PlantedScorer:
        weights: Mapping[str, float] = {"quality": 1.0, "error": 0.2}
        return PlantedScorer(
            {
                "quality": quality,
                "error": noise(f"{name} {seed}"),
                "length": _standard("length", pairs),
            },
            {"": weights, "code": {**weights, "length": length}},
            group_of=lambda prompt: subset[prompt],
            name=name,
        )

    scored = [
        (one.name, one.objectives, one.score(labelled))
        for one in (model("old", 0.0), model("new", strength))
    ]
    found = compare_scores(scored[0], scored[1], labelled, seed=seed).groups
    asked = [name for name in found if name != "all" and (name == group or group is None)]
    return any(found[name].drop.found for name in asked if group is not None or name != "code")
