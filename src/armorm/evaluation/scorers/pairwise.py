"""Pairwise preference models: both responses in one prompt, and the probability of a letter.

A causal language model reads the conversation with response A and response B, and the probability
that A is better is the softmax over the logits of the tokens A and B where its answer begins.  Both
orders are asked and averaged, so a preference for a place cancels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from armorm.conversations import Conversation, ConversationEncoder, OverlongError
from armorm.conversations.messages import with_response
from armorm.conversations.pairwise import LETTERS, pairwise_question
from armorm.errors import CheckpointError, InputError, RecipeError
from armorm.evaluation.scorers.base import Answered, Scored, Scorer
from armorm.evaluation.scorers.batching import by_length
from armorm.evaluation.scorers.whole_models import load_whole
from armorm.features import BackboneOptions, resolve_model_folder
from armorm.files import sha256_of_files, sha256_of_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PairwiseScorer(Scorer):
    """A causal language model that was trained to answer A or B.

    The score of a response is its mean probability to win against the others of its row; of two
    responses the scores sum to 1.

    Args:
        model: The language model.
        encoder: Encoder with its chat template.
        folder: Folder that it was loaded from.
        name: Name in tables.
        batch_tokens: Most tokens of a batch.
        with_bos: Keep the token that the template begins with. RLHFlow's own models are asked
            without it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: ConversationEncoder,
        folder: Path,
        name: str,
        batch_tokens: int,
        *,
        with_bos: bool = True,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.encoder = encoder
        self.folder = folder
        self.name = name
        self.batch_tokens = batch_tokens
        self.with_bos = with_bos
        self._letters = self._letter_ids()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Hashes of weights, tokenizer and template."""
        return {
            "kind": "pairwise",
            "weights_sha256": sha256_of_files(list(self.folder.glob("*.safetensors"))),
            "files_sha256": sha256_of_files(sorted(self.folder.glob("*.json"))),
            "template_sha256": sha256_of_json(self.encoder.template),
            "dtype": str(self.model.dtype),
            "with_bos": self.with_bos,
            "max_length": self.encoder.max_length,
        }

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Return mean win probabilities; n responses are n (n - 1) prompts."""
        asked: list[list[int]] = []
        plans: list[Scored | list[tuple[int, int, int]]] = []
        for row in rows:
            try:
                questions = [
                    (i, j, self._ids(row.prompt, row.responses[i], row.responses[j]))
                    for i, j in itertools.permutations(range(len(row.responses)), 2)
                ]
            except OverlongError as error:
                plans.append(Scored.failed(error, too_long=self.encoder.overlong != "error"))
            except InputError as error:
                plans.append(Scored.failed(error))
            else:
                plans.append([(i, j, len(asked) + n) for n, (i, j, _) in enumerate(questions)])
                asked.extend(ids for _, _, ids in questions)
        first_wins = self._probabilities(asked)
        return [
            plan if isinstance(plan, Scored) else _mean_wins(len(row.responses), plan, first_wins)
            for row, plan in zip(rows, plans, strict=True)
        ]

    def _ids(self, prompt: Conversation, first: str, second: str) -> list[int]:
        question = pairwise_question(prompt, first, second)
        ids = self.encoder.tokenize(self.encoder.render(question, add_generation_prompt=True))
        ids = self._without_bos(ids)
        limit = self.encoder.max_length
        if limit is not None and len(ids) >= limit:
            raise OverlongError(
                "messages",
                first,
                f"{len(ids)} tokens with both responses, the model reads {limit - 1}",
                "Shorten the conversation, or use a model that reads more.",
            )
        return ids

    def _without_bos(self, ids: list[int]) -> list[int]:
        bos = self.encoder.tokenizer.bos_token_id
        return ids if self.with_bos or not ids or ids[0] != bos else ids[1:]

    def _letter_ids(self) -> list[int]:
        """Return the ids of the tokens A and B, as they follow the template's header.

        Raises:
            CheckpointError: The template does not keep the question before the answer, or both
                letters begin with the same token.
        """
        question = pairwise_question([{"role": "user", "content": "hello"}], "yes", "no")
        encoder = self.encoder
        asked = encoder.tokenize(encoder.render(question, add_generation_prompt=True))
        ids = []
        for letter in LETTERS:
            answered = encoder.tokenize(encoder.render(with_response(question, letter)))
            if answered[: len(asked)] != asked or len(answered) == len(asked):
                raise CheckpointError(
                    f"{self.name}: the chat template does not keep the question unchanged before "
                    "the answer, so it is unknown which token is the letter."
                )
            ids.append(answered[len(asked)])
        if ids[0] == ids[1]:
            raise CheckpointError(
                f"{self.name}: the tokenizer begins the answers A and B with the same token."
            )
        return ids

    def _probabilities(self, sequences: Sequence[list[int]]) -> list[float]:
        """Return the probability of the letter A after each question."""

        def run(ids: torch.Tensor) -> torch.Tensor:
            mask = torch.ones_like(ids)
            answer = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=1)
            logits: torch.Tensor = answer.logits[:, -1, self._letters].double()
            return logits.softmax(dim=-1)[:, :1]

        found = by_length(sequences, 1, self.batch_tokens, self.model.device, run)
        probabilities: list[float] = found[:, 0].tolist()
        return probabilities


def _mean_wins(
    responses: int, plan: Sequence[tuple[int, int, int]], first_wins: Sequence[float]
) -> Scored:
    wins = [0.0] * responses
    for i, j, number in plan:
        wins[i] += first_wins[number]
        wins[j] += 1.0 - first_wins[number]
    matches = max(2 * (responses - 1), 1)
    return Scored.of([win / matches for win in wins])


def open_pairwise(
    name: str, loading: BackboneOptions | None = None, *, with_bos: bool = True, label: str = ""
) -> PairwiseScorer:
    """Load a pairwise preference model.

    Args:
        name: Folder or hub id of a causal language model.
        loading: How it is loaded and run.
        with_bos: See :class:`PairwiseScorer`.
        label: Name in tables.

    Raises:
        CheckpointError: It is no complete language model, or its tokenizer cannot answer A or B.
        RecipeError: Another engine than transformers is asked for.
    """
    from transformers import AutoModelForCausalLM

    loading = loading or BackboneOptions()
    if loading.engine != "transformers":
        raise RecipeError("A pairwise model runs in transformers: leave out --engine.")
    folder = resolve_model_folder(name, loading.revision)
    incomplete = ": it is no language model. Train one with `armorm train-pairwise`."
    model, encoder, tokens = load_whole(AutoModelForCausalLM, folder, name, loading, incomplete)
    return PairwiseScorer(model, encoder, folder, label or name, tokens, with_bos=with_bos)
