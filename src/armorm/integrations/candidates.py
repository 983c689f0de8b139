"""Files of prompts with several candidate responses: annotate them, or keep the best.

The row form is Online-RLHF's: ``{"prompt": text or messages, "responses": [text, …]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from armorm.conversations import ConversationEncoder, EncodedPrompt, located_in, validate_prompt
from armorm.errors import InputError, RecipeError
from armorm.evaluation.scoring import (
    ModelSettings,
    RowWork,
    ScoringSummary,
    encode_at,
    process_rows,
)
from armorm.integrations.pairs import response_texts
from armorm.model import RewardModel, Rewards, Risk
from armorm.model.profiles import check_floors
from armorm.model.uncertainty import no_uncertainty


def annotate_file(
    model: RewardModel | ModelSettings,
    source: str | Path,
    output: Path,
    *,
    objectives: bool = True,
    **options: Any,
) -> ScoringSummary:
    """Add the rewards of all responses to each row.

    Each row is kept and gets ``rewards`` (one score per response, as Online-RLHF reads them) and,
    unless ``objectives`` is false, ``objective_rewards`` (``{objective: [one per response]}``),
    and the prompt's ``gating`` and ``coefficients`` (``{objective: number}``); every score is the
    sum of the products of coefficients and rewards.  A steered model's row also has ``steering``;
    under a profile ``profile``, its name and hash, and where it has a risk or floors
    ``pessimistic`` and ``meets_floors``, one per response.

    Args:
        model: The reward model.
        source: Rows with ``prompt`` and ``responses``.
        output: JSON lines.
        objectives: Keep the per-objective rewards.
        **options: See :func:`armorm.evaluation.scoring.process_rows`.

    Raises:
        InputError: A row is invalid, unless ``skip_invalid``.
    """
    return process_rows(AnnotateCandidates(objectives), model, source, output, **options)


def best_of_file(
    model: RewardModel | ModelSettings,
    source: str | Path,
    output: Path,
    *,
    keep: int = 1,
    floors: Mapping[str, float] | None = None,
    risk: Risk | float | None = None,
    **options: Any,
) -> ScoringSummary:
    """Keep the best responses of each row: best-of-n, and the filtering step of RAFT.

    Each row is kept without its ``responses`` and gets ``messages`` (prompt and best response,
    ready for supervised fine-tuning), ``score`` and ``best`` (its position).  With ``keep`` above
    1 it also gets ``ranked``, the ``keep`` best as ``{"response", "score", "position"}``.  With
    ``floors`` it gets these too, and ``meets_floors``: false where every response is below one.
    A steered model's row also has ``steering``; under a profile ``profile``, its name and hash, and
    the profile's floors and risk rank beside those given here or in their place.

    Args:
        model: The reward model.
        source: Rows with ``prompt`` and ``responses``.
        output: JSON lines.
        keep: Number of the best to list.
        floors: Least unit reward of some objectives: a response below any of them comes after all
            that are not, whatever its score.
        risk: Rank by scores less the price of their uncertainty, written as ``pessimistic``: see
            :meth:`armorm.RewardModel.score_responses`.
        **options: See :func:`armorm.evaluation.scoring.process_rows`.

    Raises:
        InputError: A row is invalid, unless ``skip_invalid``.
        RecipeError: A floor names no objective of the model, or is not a finite number.
    """
    work = BestOfCandidates(keep, floors or {}, Risk.of(risk))
    return process_rows(work, model, source, output, **options)


class _CandidateWork(RowWork):
    def encode(self, encoder: ConversationEncoder, row: Mapping[str, Any]) -> EncodedPrompt:
        """Read ``prompt`` and ``responses``."""
        prompt, texts = _candidates(row)
        return encode_at("responses", encoder, prompt, texts)


@dataclass(frozen=True, slots=True)
class AnnotateCandidates(_CandidateWork):
    """Add rewards to each row; see :func:`annotate_file`."""

    name: ClassVar[str] = "annotate"
    objectives: bool = True

    def describe(self, row: Mapping[str, Any], rewards: Rewards) -> dict[str, Any]:
        """Return the row with its rewards."""
        annotated = {**row, "rewards": rewards.score.tolist()}
        if self.objectives:
            names = rewards.objectives
            annotated |= {
                "objective_rewards": rewards.by_objective("rewards"),
                "gating": dict(zip(names, rewards.gating[0].tolist(), strict=True)),
                "coefficients": dict(zip(names, rewards.coefficients[0].tolist(), strict=True)),
            }
        if rewards.pessimistic is not None:
            annotated["pessimistic"] = rewards.pessimistic.tolist()
        if rewards.floors():
            annotated["meets_floors"] = rewards.meets().tolist()
        return annotated | rewards.shaped_by()


@dataclass(frozen=True, slots=True)
class BestOfCandidates(_CandidateWork):
    """Keep the best responses of each row; see :func:`best_of_file`."""

    name: ClassVar[str] = "best-of"
    keep: int = 1
    floors: Mapping[str, float] = field(default_factory=dict)
    risk: Risk | None = None

    def check(self, model: RewardModel) -> None:
        """Check that the model has the objectives of the floors, and what a risk needs."""
        if self.risk is not None and model.uncertainty is None:
            raise no_uncertainty()
        try:
            check_floors(self.floors, model.objectives.names)
        except InputError as error:
            raise RecipeError(str(error)) from None

    def describe(self, row: Mapping[str, Any], rewards: Rewards) -> dict[str, Any]:
        """Return the row with the best response in place of all."""
        prompt, texts = _candidates(row)
        order = rewards.ranking(self.floors)
        best = order[0]
        kept = {name: value for name, value in row.items() if name != "responses"}
        kept |= {
            "messages": [*map(dict, prompt), {"role": "assistant", "content": texts[best]}],
            "score": float(rewards.score[best]),
            "best": best,
        }
        pessimistic = None if rewards.pessimistic is None else rewards.pessimistic.tolist()
        if pessimistic is not None:
            kept["pessimistic"] = pessimistic[best]
        if floors := rewards.floors(self.floors):
            kept["floors"] = floors
            kept["meets_floors"] = bool(rewards.meets(floors)[best])
        if self.keep > 1:
            kept["ranked"] = [
                {"response": texts[i], "score": float(rewards.score[i]), "position": i}
                | ({} if pessimistic is None else {"pessimistic": pessimistic[i]})
                for i in order[: self.keep]
            ]
        return kept | rewards.shaped_by()


def _candidates(row: Mapping[str, Any]) -> tuple[Any, list[str]]:
    prompt = located_in("prompt", validate_prompt, row.get("prompt"))
    return prompt, response_texts(row.get("responses"))
