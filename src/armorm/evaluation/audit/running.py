"""An audit: score pairs and their changed forms, and run every detector."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from armorm.conversations import PreferencePair, prompt_key
from armorm.data.reading import hash_fraction
from armorm.evaluation.audit.changes import chosen_changes
from armorm.evaluation.audit.correlations import LENGTH, CorrelationReport, correlate
from armorm.evaluation.audit.counterfactuals import CounterfactualReport, change_effects
from armorm.evaluation.audit.erasure import ErasureReport, probe_surface
from armorm.evaluation.audit.labels import LabelReport, compare_with_labels
from armorm.evaluation.audit.novelty import NoveltyReport, measure_novelty
from armorm.evaluation.audit.objectives import ObjectivesReport, map_objectives
from armorm.evaluation.audit.options import AuditOptions
from armorm.evaluation.audit.probes import Probed, Scores, group_of, probes_of, score_probes
from armorm.evaluation.audit.statistics import Estimate
from armorm.evaluation.scorers import RewardModelScorer, Scorer
from armorm.model import RewardModel
from armorm.text_measures import TEXT_MEASURES
from armorm.version import __version__

AUDIT_FORMAT = "armorm-audit"
"""Name of the format of ``audit.json``."""

SCORES_FILE = "scores.jsonl"
FIGURES = (
    "accuracy",
    "accuracy_drop",
    "calibration_error",
    "effective_objectives",
    "excess_preference",
    "flip_rate",
    "novel_share",
    "score_shift",
    *(f"{name}_correlation" for name in TEXT_MEASURES),
    *(f"readable_{name}" for name in TEXT_MEASURES),
)
"""Kinds of figures that a rule can name; in parentheses follows what a figure is of."""

PLACES = ("features", "rewards", "debiased_rewards", "score")
"""Where a probe looks for a text measure."""


def figure_names(pairs: Sequence[PreferencePair], options: AuditOptions) -> list[str]:
    """Return the names of the figures that a rule about an audit of these pairs can name.

    The data or the model may leave some of them undetermined.
    """
    groups = sorted({group_of(pair) for pair in pairs})
    changes = [change.name for change in chosen_changes(options.changes)]
    names = ["accuracy", "calibration_error", "novel_share"]
    names += [f"accuracy({group})" for group in groups]
    for measure in TEXT_MEASURES:
        names.append(f"{measure}_correlation")
        names += [f"{measure}_correlation({of})" for of in ("within", *groups)]
        if measure != LENGTH:
            names.append(f"{measure}_correlation(given_length)")
        names.append(f"excess_preference({measure})")
        names += [f"readable_{measure}({place})" for place in PLACES]
    for kind in ("flip_rate", "score_shift", "accuracy_drop"):
        names += [f"{kind}({change})" for change in changes]
    names += [f"effective_objectives({of})" for of in ("predicted", "debiased", "deciding")]
    return names


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Result of an audit.

    Attributes:
        model: Name of the model.
        shaped_by: Steering and profile that shaped the scores; empty without any.
        version: Version of this package.
        options: The options.
        pairs: Pairs with scores.
        prompts: Their distinct prompts.
        offered: Pairs that were given.
        too_long: Pairs that the model cannot read whole.
        refused: Errors of the other pairs without scores.
        correlations: Correlations with the surface of the text.
        counterfactuals: Effects of changes; None if none were asked for.
        objectives: Weights and redundancy of the objectives; None for a score without parts.
        labels: Agreement with the labels.
        erasure: Linear probes; None unless the model's features can be read.
        novelty: Novelty of the responses; None likewise.
        seconds: Time it took.
    """

    model: str
    shaped_by: Mapping[str, Any]
    version: str
    options: dict[str, Any]
    pairs: int
    prompts: int
    offered: int
    too_long: int
    refused: tuple[dict[str, Any], ...]
    correlations: CorrelationReport
    counterfactuals: CounterfactualReport | None
    objectives: ObjectivesReport | None
    labels: LabelReport
    erasure: ErasureReport | None
    novelty: NoveltyReport | None
    seconds: float
    figures: dict[str, Estimate] = field(init=False)

    def __post_init__(self) -> None:
        parts = (
            self.labels,
            self.correlations,
            self.counterfactuals,
            self.objectives,
            self.erasure,
            self.novelty,
        )
        figures = {k: v for part in parts if part is not None for k, v in part.figures().items()}
        object.__setattr__(self, "figures", figures)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {"format": AUDIT_FORMAT, "format_version": 1, **asdict(self)}


def audit(
    scorer: Scorer,
    pairs: Sequence[PreferencePair],
    output: Path,
    options: AuditOptions | None = None,
    *,
    show_progress: bool = False,
) -> AuditReport:
    """Audit a reward on preference pairs; a killed run is continued by the same call.

    Args:
        scorer: What gives the scores. A gated reward model is also audited for what each
            objective does, and its features are probed.
        pairs: The pairs; their ``subset``, else their ``source``, groups them.
        output: Folder for the scores, in ``scores.jsonl``.
        options: Size of the audit.
        show_progress: Show progress on standard error.

    Raises:
        ArmormError: No pair has scores, or the unfinished output belongs to something else.
        RecipeError: There is no such change.
    """
    started = time.perf_counter()
    options = options or AuditOptions()
    changes = chosen_changes(options.changes)
    kept = _sample(pairs, options.rows, options.seed)
    order = _order(kept, options.seed)
    probes = probes_of(kept, changes, order[: options.changed_rows].tolist(), options.seed)
    scored = score_probes(scorer, probes, output / SCORES_FILE, show_progress=show_progress)
    probed = Probed.of(kept, probes, scored, scorer.objectives)
    found, scores = probed.pairs, probed.scores
    groups = [group_of(pair) for pair in found]
    prompts = [prompt_key(pair.prompt) for pair in found]
    clusters = np.unique(prompts, return_inverse=True)[1]
    model = scorer.model if isinstance(scorer, RewardModelScorer) else None
    transform = None if model is None else model.heads.transform.double().numpy()
    seed = options.seed
    erasure, novelty = _read_features(model, found, scores, groups, options)
    return AuditReport(
        model=scorer.name,
        shaped_by=scorer.account if isinstance(scorer, RewardModelScorer) else {},
        version=__version__,
        options=options.model_dump(mode="json"),
        pairs=len(found),
        prompts=len(set(prompts)),
        offered=len(pairs),
        too_long=probed.too_long,
        refused=probed.refused,
        correlations=correlate(scores, prompts, groups, transform, seed=seed),
        counterfactuals=change_effects(probed, clusters) if probed.changed else None,
        objectives=map_objectives(scores, groups, clusters, transform, seed=seed)
        if scorer.objectives
        else None,
        labels=compare_with_labels(scores, found, groups, clusters, _scale(model), seed=seed),
        erasure=erasure,
        novelty=novelty,
        seconds=time.perf_counter() - started,
    )


def _scale(model: RewardModel | None) -> float | None:
    """Return beta, unless the steering changed the scale of the scores."""
    return model.heads.beta if model is not None and model.steering.keeps_scale else None


def _sample(pairs: Sequence[PreferencePair], rows: int, seed: int) -> list[PreferencePair]:
    chosen = np.sort(_order(pairs, seed)[:rows])
    return [pairs[place] for place in chosen]


def _order(pairs: Sequence[PreferencePair], seed: int) -> npt.NDArray[np.int64]:
    """Return the positions of pairs in an order that depends on their prompts and the seed."""
    keys = [hash_fraction(prompt_key(pair.prompt)) for pair in pairs]
    shift = np.random.default_rng(seed).random()
    return np.argsort((np.array(keys) + shift) % 1.0, kind="stable")


def _read_features(
    model: RewardModel | None,
    pairs: Sequence[PreferencePair],
    scores: Scores,
    groups: Sequence[str],
    options: AuditOptions,
) -> tuple[ErasureReport | None, NoveltyReport | None]:
    """Read features of some pairs again, which takes less than to keep those of all."""
    rows = np.sort(_order(pairs, options.seed)[: options.probed_rows])
    if model is None or not len(rows):
        return None, None
    encoder = model.backbone.encoder
    encoded = [encoder.encode(pairs[row].prompt, pairs[row].responses) for row in rows]
    features = model.backbone.features(encoded).responses
    sample = scores.of_pairs(rows)
    prompts = [prompt_key(pairs[row].prompt) for row in rows]
    clusters = np.repeat(np.unique(prompts, return_inverse=True)[1], 2)
    weight, transform = (
        part.double().numpy() for part in (model.heads.weight, model.heads.transform)
    )
    erasure = None
    if len(set(prompts)) >= 25:
        erasure = probe_surface(
            sample, _float64(features), weight, transform, clusters, seed=options.seed
        )
    novelty = None
    if model.uncertainty is not None:
        sure = model.uncertainty.of(features, _as_tensor(sample.coefficients))
        novelty = measure_novelty(
            _float64(sure.novelty), sure.usual_novelty, [groups[row] for row in rows], clusters
        )
    return erasure, novelty


def _float64(tensor: Any) -> Float[np.ndarray, ...]:
    return tensor.double().cpu().numpy()  # type: ignore[no-any-return]


def _as_tensor(values: Float[np.ndarray, "n k"]) -> Any:
    import torch

    return torch.from_numpy(values).float()
