"""Flags and opening of what gives scores, for the commands that take any MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from armorm.cli.flags import Flags
from armorm.cli.options import Loading, hide_library_progress, parse_steering
from armorm.evaluation.scorers.options import ScorerOptions

if TYPE_CHECKING:
    from armorm.evaluation.scorers import Scorer
    from armorm.features.options import BackboneOptions

Scorers = Annotated[ScorerOptions, Flags(panel="Other models")]


def open_model(
    name: str,
    scoring: ScorerOptions,
    loading: Loading,
    steer: list[str] | None = None,
    profile: str | None = None,
) -> Scorer:
    """Open what gives the scores."""
    from armorm.evaluation.scorers import open_scorer

    hide_library_progress()
    return open_scorer(
        name,
        scoring,
        backbone_options(loading),
        verify=loading.verify,
        steer=parse_steering(steer, profile),
    )


def backbone_options(loading: Loading) -> BackboneOptions:
    """Return how a model is loaded, as the flags say."""
    from armorm.features.options import BackboneOptions

    given = loading.model_dump(exclude={"verify"}, exclude_unset=True)
    return BackboneOptions.validated(given)
