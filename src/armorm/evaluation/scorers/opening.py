"""One name on the command line to a scorer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armorm.errors import RecipeError
from armorm.evaluation.scorers.base import Scorer
from armorm.evaluation.scorers.options import ScorerOptions
from armorm.features.options import BackboneOptions

if TYPE_CHECKING:
    from armorm.model import Steering, SteeringProfile


@dataclass(frozen=True, slots=True)
class _Request:
    """All that a scorer is opened with; see :func:`open_scorer`."""

    spec: str
    rest: str
    options: ScorerOptions
    loading: BackboneOptions
    verify: bool
    steer: Steering | SteeringProfile | str | None

    def refuse_steering(self) -> None:
        """Raise RecipeError if there is steering, which only gated reward models take."""
        if self.steer is not None and not getattr(self.steer, "is_neutral", False):
            raise RecipeError(
                f"{self.spec} has no objectives to steer: leave out --steer and --profile."
            )


def open_scorer(
    spec: str,
    options: ScorerOptions | None = None,
    loading: BackboneOptions | None = None,
    *,
    verify: bool = True,
    steer: Steering | SteeringProfile | str | None = None,
) -> Scorer:
    """Return the scorer that a name describes.

    ==========================  ==================================================================
    Name                        Scorer
    ==========================  ==================================================================
    folder or hub id            a gated reward model, or any sequence classifier of transformers
    ``fixed:MODEL``             a gated reward model with the fixed weights that were trained
                                beside its gate
    ``bradley-terry-head:RUN``  the Bradley–Terry linear head of a training run
    ``http(s)://…``             a reward model behind a server
    ``pairwise:MODEL``          a language model that answers which of two responses is better
    ``judge:MODEL@URL``         a language model behind an OpenAI-compatible endpoint
    ``length``                  the number of characters
    ``random``, ``random:7``    random numbers, with a seed
    ==========================  ==================================================================

    Args:
        spec: The name. A folder that is named like one of the others is written ``./length``.
        options: Options of the scorer.
        loading: How a model is loaded and run.
        verify: See :meth:`armorm.RewardModel.from_pretrained`.
        steer: Steering of a gated reward model, or a profile or its name.

    Raises:
        RecipeError: The name or an option cannot be used.
        CheckpointError: The model cannot be loaded.

    Example:
        >>> from armorm.evaluation.scorers import open_scorer
        >>> open_scorer("length").name
        'length'
        >>> open_scorer("fixed:runs/quickstart/model").objectives[0]
        'helpdesk-correctness'
        >>> open_scorer("bradley-terry-head:runs/quickstart").objectives
        ()
    """
    kind, _, rest = spec.partition(":")
    request = _Request(
        spec, rest, options or ScorerOptions(), loading or BackboneOptions(), verify, steer
    )
    return _KINDS.get(kind, _model)(request)


def check_scorer(spec: str, loading: BackboneOptions | None = None) -> None:
    """Check cheaply that a name can be opened: of a model, its config and heads are read.

    Raises:
        RecipeError: There is no such baseline.
        CheckpointError: There is no such model, or its folder is incomplete.
    """
    from armorm.features import resolve_model_folder
    from armorm.hub.weights import read_object
    from armorm.model.loading import load_checkpoint

    kind, _, rest = spec.partition(":")
    revision = None if loading is None else loading.revision
    if kind in ("length", "random"):
        open_scorer(spec)
    elif kind == "fixed":
        load_checkpoint(rest, revision)
    elif kind not in _KINDS:
        folder = resolve_model_folder(spec, revision)
        if read_object(folder / "config.json").get("num_objectives") is not None:
            load_checkpoint(spec, revision)


def _length(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.rules import LengthScorer

    request.refuse_steering()
    if request.rest:
        raise _misspelt(request.spec)
    return LengthScorer()


def _random(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.rules import RandomScorer

    request.refuse_steering()
    if request.rest and not request.rest.isdecimal():
        raise _misspelt(request.spec)
    return RandomScorer(int(request.rest or 0))


def _misspelt(spec: str) -> RecipeError:
    return RecipeError(
        f"{spec!r} is no baseline: write length, random, or random:SEED with a whole number. A "
        f"folder of that name is ./{spec}."
    )


def _endpoint(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.endpoints import EndpointScorer

    request.refuse_steering()
    return EndpointScorer(request.spec, request.options)


def _bradley_terry_head(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.run_rivals import open_bradley_terry_head

    request.refuse_steering()
    return open_bradley_terry_head(Path(request.rest), request.spec, request.loading)


def _fixed(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.reward_models import RewardModelScorer
    from armorm.model import RewardModel

    request.refuse_steering()
    model = RewardModel.from_pretrained(request.rest, request.loading, verify=request.verify)
    return RewardModelScorer(model.with_fixed_weights(request.rest), request.spec)


def _pairwise(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.pairwise import open_pairwise

    request.refuse_steering()
    return open_pairwise(
        request.rest,
        request.loading,
        with_bos=request.options.pairwise_bos,
        label=request.spec,
    )


def _judge(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.judge import open_judge

    request.refuse_steering()
    return open_judge(request.spec, request.options)


def _model(request: _Request) -> Scorer:
    from armorm.evaluation.scorers.classifiers import open_classifier
    from armorm.evaluation.scorers.reward_models import RewardModelScorer
    from armorm.features import resolve_model_folder
    from armorm.hub.weights import read_object
    from armorm.model import RewardModel

    folder = resolve_model_folder(request.spec, request.loading.revision)
    if read_object(folder / "config.json").get("num_objectives") is None:
        request.refuse_steering()
        weights = request.options.attribute_weights
        return open_classifier(folder, request.spec, request.loading, weights)
    if request.options.attribute_weights:
        raise RecipeError(
            f"--attribute-weight: {request.spec} is a gated reward model; steer it with --steer "
            "weights.NAME=1."
        )
    model = RewardModel.from_pretrained(request.spec, request.loading, verify=request.verify)
    return RewardModelScorer(model.steer_by(request.steer), request.spec)


_KINDS: dict[str, Callable[[_Request], Scorer]] = {
    "length": _length,
    "random": _random,
    "http": _endpoint,
    "https": _endpoint,
    "bradley-terry-head": _bradley_terry_head,
    "fixed": _fixed,
    "pairwise": _pairwise,
    "judge": _judge,
}
