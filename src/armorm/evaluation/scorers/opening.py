"""One name on the command line to a scorer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from armorm.errors import RecipeError
from armorm.evaluation.scorers.base import Scorer
from armorm.evaluation.scorers.options import ScorerOptions
from armorm.features.options import BackboneOptions

if TYPE_CHECKING:
    from armorm.model import Steering


def open_scorer(
    spec: str,
    options: ScorerOptions | None = None,
    loading: BackboneOptions | None = None,
    *,
    verify: bool = True,
    steer: Steering | None = None,
) -> Scorer:
    """Return the scorer that a name describes.

    Args:
        spec: ``length``, ``random`` or ``random:SEED``, or the folder or hub id of a model.
        options: Options of the scorer.
        loading: How a model is loaded and run.
        verify: See :meth:`armorm.RewardModel.from_pretrained`.
        steer: Steering of a gated reward model.

    Raises:
        RecipeError: The name or an option cannot be used.
        CheckpointError: The model cannot be loaded.

    Example:
        >>> from armorm.evaluation.scorers import open_scorer
        >>> open_scorer("length").name
        'length'
    """
    del options  # no kind of this version has any
    kind, _, rest = spec.partition(":")
    scorer: Scorer | None = None
    if kind in ("length", "random"):
        scorer = _rule(kind, rest, spec)
    if scorer is None:
        return _model(spec, loading or BackboneOptions(), verify, steer)
    if steer is not None and not steer.is_neutral:
        raise RecipeError(f"{spec} has no objectives to steer: leave out --steer.")
    return scorer


def _rule(kind: str, rest: str, spec: str) -> Scorer:
    from armorm.evaluation.scorers.rules import LengthScorer, RandomScorer

    if kind == "length" and not rest:
        return LengthScorer()
    if kind == "random" and (not rest or rest.isdecimal()):
        return RandomScorer(int(rest or 0))
    raise RecipeError(
        f"{spec!r} is no baseline: write length, random, or random:SEED with a whole number. A "
        f"folder of that name is ./{spec}."
    )


def _model(
    spec: str,
    loading: BackboneOptions,
    verify: bool,
    steer: Steering | None,
) -> Scorer:
    from armorm.evaluation.scorers.reward_models import RewardModelScorer
    from armorm.model import RewardModel

    model = RewardModel.from_pretrained(spec, loading, verify=verify)
    return RewardModelScorer(model if steer is None else model.steer(steer), spec)
