"""A trained ArmoRM with its gate, as one object."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save as save_safetensors
from torch import Tensor

from armorm.conversations import (
    Conversation,
    EncodedPrompt,
    located_in,
    unpad,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.errors import ArmormError, InputError, NonFiniteError
from armorm.features import Backbone, BackboneOptions, FeatureBackbone, load_engine, merge_prompts
from armorm.files import sha256_of_json
from armorm.heads import Gate
from armorm.model.checkpoint import Heads, load_checkpoint, save_checkpoint
from armorm.model.explanation import (
    Comparison,
    Explanation,
    ObjectiveDifference,
    ObjectiveShare,
)
from armorm.model.rewards import Rewards, Steering
from armorm.model.self_check import PROMPT, RESPONSE, SelfCheck
from armorm.model.uncertainty import ModelUncertainty, no_uncertainty, remove_uncertainty
from armorm.objectives import ObjectiveSet


class RewardModel:
    """Scores responses by many objectives, and says why.

    score = gating . (rewards @ transform) = coefficients . rewards, where rewards are the
    regression layer's predictions at the last token, and gating reads the prompt alone
    (paper, equation 4).

    Args:
        backbone: The frozen language model.
        heads: Regression layer, transform, gate and what they were trained on.
        steering: Factors on the coefficients.
        uncertainty: How sure the head is; ``None`` where that is not known.
    """

    def __init__(
        self,
        backbone: FeatureBackbone,
        heads: Heads,
        steering: Steering | None = None,
        uncertainty: ModelUncertainty | None = None,
    ) -> None:
        self.backbone = backbone
        self.heads = heads
        self.steering = steering or Steering()
        self.uncertainty = uncertainty
        self._factors = self.steering.vector(heads.objectives)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        options: BackboneOptions | None = None,
        *,
        verify: bool = True,
        **fields: Any,
    ) -> RewardModel:
        """Load a model folder or hub id in the released ArmoRM layout. No remote code is run.

        Args:
            name_or_path: A folder written by :meth:`save_pretrained`, or a released checkpoint.
            options: How the backbone is loaded and run, and by which engine.
            verify: Score the conversation whose ids and score were saved with the model, and
                refuse the model if they differ.
            **fields: Fields of ``options`` to replace (``dtype``, ``device``, ``max_length``,
                ``engine`` …); see :meth:`armorm.Backbone.from_pretrained`.

        Raises:
            CheckpointError: the folder is not a complete gated reward model, or fails its own
                self-check.
        """
        options = BackboneOptions.of(options, fields)
        checkpoint = load_checkpoint(name_or_path, options.revision)
        backbone = load_engine(checkpoint.folder, options)
        checkpoint.heads.check_fits(backbone.hidden_size, str(name_or_path))
        uncertainty = ModelUncertainty.in_folder(checkpoint.folder)
        model = cls(backbone, checkpoint.heads, uncertainty=uncertainty)
        if verify and checkpoint.self_check is not None:
            checkpoint.self_check.verify(
                model.self_check(), str(name_or_path), quantized=backbone.quantized
            )
        return model

    def save_pretrained(self, path: str | Path, *, license_id: str | None = None) -> None:
        """Write a model folder: weights, config, tokenizer, model card and ``armorm.json``.

        The folder also loads without this package, by
        ``AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)``.

        Args:
            path: The folder.
            license_id: For the model card, as the hub spells it (``apache-2.0``, ``llama3`` …).

        Raises:
            ArmormError: the model is steered (a folder holds the weights as they were trained), or
                another engine than transformers holds its weights.
        """
        if self.steering.factors:
            raise ArmormError("A steered model cannot be saved. Save the model it was made from.")
        if not isinstance(self.backbone, Backbone):
            raise ArmormError(
                "The engine holds the weights in a form of its own, so it cannot save them. Load "
                "the model with engine='transformers'."
            )
        save_checkpoint(Path(path), self.backbone, self.heads, self.self_check(), license_id)
        if self.uncertainty is None:
            remove_uncertainty(Path(path))
        else:
            self.uncertainty.save(Path(path))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license_id: str | None = None,
        private: bool = True,
        token: str | None = None,
    ) -> str:
        """Upload the model folder to the Hugging Face hub; returns the address of the commit.

        Args:
            repo_id: ``name`` or ``organisation/name``; made if it is not there.
            license_id: See :meth:`save_pretrained`.
            private: Whether a repository made now is private.
            token: Default: the one ``hf auth login`` stored.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, license_id=license_id)
            commit = api.upload_folder(
                repo_id=repository.repo_id, folder_path=folder, commit_message="Upload ArmoRM"
            )
        return str(commit)

    def self_check(self) -> SelfCheck:
        """What this model makes of the fixed conversation of its self-check."""
        encoder = self.backbone.encoder.without_limit()
        encoded = encoder.encode(PROMPT, [RESPONSE])
        rewards = self.score_encoded([encoded])
        return SelfCheck.of(encoded, rewards, self.backbone.dtype)

    @property
    def objectives(self) -> ObjectiveSet:
        return self.heads.objectives

    @property
    def gate(self) -> Gate:
        return self.heads.gate

    def steer(self, factors: Mapping[str, float] | Steering) -> RewardModel:
        """The same model with some objectives counting more, less, or not at all."""
        steering = factors if isinstance(factors, Steering) else Steering(dict(factors))
        return RewardModel(self.backbone, self.heads, steering, self.uncertainty)

    def score(self, conversations: Sequence[Conversation], *, uncertainty: bool = False) -> Rewards:
        """Score conversations, each a list of messages that ends with the assistant's.

        Args:
            conversations: What to score.
            uncertainty: Also say how sure each reward and score is, and how unlike the rated
                rows each response is (:class:`RewardUncertainty`).

        Raises:
            InputError: a conversation is malformed; ``row`` is its one-based position.
            OverlongError: a conversation is longer than the model can read.
            ArmormError: ``uncertainty`` is asked of a model folder that does not hold it.
        """
        encoded = []
        for number, conversation in enumerate(conversations, start=1):
            try:
                prompt, response = located_in("messages", validate_conversation, conversation)
                encoded.append(self.backbone.encoder.encode(prompt, [response]))
            except InputError as error:
                raise error.at(None, number) from None
        return self.score_encoded(encoded, uncertainty=uncertainty)

    def score_ids(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        attention_mask: Tensor | Sequence[Sequence[int]] | None = None,
    ) -> Rewards:
        """Score conversations that are token ids already, rendered by this model's own template.

        The gate reads at the last occurrence of the template's boundary pattern, the released
        rule.  Prefer :meth:`score`, which knows the boundary instead of searching for it.

        Args:
            input_ids: Rows of ids: lists of any lengths, or one tensor of shape (n, tokens).
            attention_mask: 1 at real tokens, 0 at padding, which may stand on either side.
                Needed for a tensor of several rows, where padding cannot be told from text.

        Raises:
            InputError: a row cannot be scored; ``row`` is its one-based position.
        """
        rows = unpad(input_ids, attention_mask)
        encoder = self.backbone.encoder
        encoded = []
        for number, ids in enumerate(rows, start=1):
            try:
                encoded.append(encoder.from_ids(ids))
            except InputError as error:
                raise error.at(None, number) from None
        return self.score_encoded(encoded)

    def score_responses(self, prompt: Conversation | str, responses: Sequence[str]) -> Rewards:
        """Score several responses to one prompt. The prompt is a list of messages, or text."""
        checked = [validate_response(response) for response in responses]
        encoded = self.backbone.encoder.encode(validate_prompt(prompt), checked)
        try:
            return self.score_encoded([encoded])
        except NonFiniteError as error:
            raise replace(error, field=f"responses[{error.positions[0]}]", row=None) from None

    def best_of(self, prompt: Conversation | str, responses: Sequence[str]) -> tuple[int, Rewards]:
        """The position of the best response, and the scores of all; the first of equals wins."""
        rewards = self.score_responses(prompt, responses)
        return int(torch.argmax(rewards.score)), rewards

    def explain(self, conversation: Conversation) -> Explanation:
        """Take the score of one conversation apart."""
        rewards = self.score([conversation], uncertainty=self.uncertainty is not None)
        ratings = self.objectives.to_ratings(rewards.rewards.numpy())[0]
        sure = rewards.uncertainty
        spans = [abs(objective.unit_one - objective.unit_zero) for objective in self.objectives]
        shares = [
            ObjectiveShare(
                objective=name,
                reward=float(rewards.rewards[0, i]),
                rating=float(ratings[i]),
                gating=float(rewards.gating[0, i]),
                coefficient=float(rewards.coefficients[0, i]),
                contribution=float(rewards.contributions[0, i]),
                deviation=None if sure is None else float(sure.deviations[0, i]) * spans[i],
            )
            for i, name in enumerate(rewards.objectives)
        ]
        shares.sort(key=lambda share: -abs(share.contribution))
        explanation = Explanation(float(rewards.score[0]), tuple(shares))
        if sure is None:
            return explanation
        return replace(
            explanation,
            deviation=float(sure.score[0]),
            novelty=float(sure.novelty[0]),
            novel=bool(sure.novel[0]) if sure.usual_novelty is not None else None,
        )

    def compare(self, prompt: Conversation | str, a: str, b: str) -> Comparison:
        """Which of two responses is preferred, and what each objective adds to the margin."""
        rewards = self.score_responses(prompt, [a, b])
        ratings = self.objectives.to_ratings(rewards.rewards.numpy())
        differences = [
            ObjectiveDifference(
                objective=name,
                coefficient=float(rewards.coefficients[0, i]),
                rating_a=float(ratings[0, i]),
                rating_b=float(ratings[1, i]),
                reward_a=float(rewards.rewards[0, i]),
                reward_b=float(rewards.rewards[1, i]),
                contribution=float(rewards.contributions[0, i] - rewards.contributions[1, i]),
            )
            for i, name in enumerate(rewards.objectives)
        ]
        differences.sort(key=lambda difference: -abs(difference.contribution))
        margin = float(rewards.score[0] - rewards.score[1])
        return Comparison(
            score_a=float(rewards.score[0]),
            score_b=float(rewards.score[1]),
            margin=margin,
            probability=self.preference_probability(margin),
            preferred="a" if margin > 0 else "b" if margin < 0 else "tie",
            objectives=tuple(differences),
        )

    def fingerprint(self) -> str:
        """A hash of everything a score depends on."""
        heads = hashlib.sha256(save_safetensors(self.heads.tensors())).hexdigest()
        settings = [self.gate.temperature, dict(self.steering.factors)]
        return sha256_of_json([self.backbone.identity, heads, settings])

    def preference_probability(self, margin: float) -> float | None:
        """sigmoid(beta * margin); ``None`` where the model folder does not tell beta."""
        if self.heads.beta is None:
            return None
        return 0.5 * (1.0 + math.tanh(0.5 * self.heads.beta * margin))

    @torch.inference_mode()
    def score_encoded(
        self,
        encoded: Sequence[EncodedPrompt],
        *,
        uncertainty: bool = False,
        keep_nonfinite: bool = False,
    ) -> Rewards:
        """Score what ``backbone.encoder`` encoded: all responses, prompt by prompt.

        Equal prompts and equal conversations are computed once, so equal responses to one prompt
        have equal scores, bit by bit.

        Args:
            encoded: Prompts with their responses.
            uncertainty: See :meth:`score`.
            keep_nonfinite: Return rows of NaN or infinity, at which ``Rewards.finite`` is false,
                instead of raising an error.

        Raises:
            NonFiniteError: a score is NaN or infinite, unless ``keep_nonfinite``.
        """
        if uncertainty and self.uncertainty is None:
            raise no_uncertainty()
        # The heads too run on distinct conversations: the rows of a matrix product depend on
        # their position, by rounding.
        merged = merge_prompts(encoded)
        features = self.backbone.features(merged.prompts)
        gating = self.gate(features.prompts)[merged.owners]
        rewards = self._combine(features.responses, gating)
        if uncertainty:
            assert self.uncertainty is not None
            self.uncertainty.check_belongs(self.heads.weight)
            sure = self.uncertainty.of(features.responses, rewards.coefficients)
            rewards = replace(rewards, uncertainty=sure)
        rewards = rewards.where(torch.tensor(merged.response_numbers, dtype=torch.long))
        if not keep_nonfinite:
            self._check_finite(rewards)
        return rewards

    def _check_finite(self, rewards: Rewards) -> None:
        bad = tuple((~rewards.finite).nonzero()[:, 0].tolist())
        if bad:
            raise NonFiniteError(
                "score",
                float(rewards.score[bad[0]]),
                f"not a finite number; {len(bad)} of {len(rewards)} conversations have no score, "
                "since the model's hidden states overflow",
                "Load the model in float32 or bfloat16.",
                row=bad[0] + 1,
                positions=bad,
            )

    def _combine(
        self, responses: Float[Tensor, "n hidden"], gating: Float[Tensor, "n k"]
    ) -> Rewards:
        # In float64, since kernels round a row by where it stands: equal responses must tie.
        rewards = (responses.double() @ self.heads.weight.double().T).float()
        coefficients = gating @ self.heads.transform.T * self._factors
        contributions = coefficients * rewards
        return Rewards(
            score=contributions.double().sum(dim=-1).float(),
            rewards=rewards,
            gating=gating,
            coefficients=coefficients,
            contributions=contributions,
            objectives=self.objectives.names,
        )
