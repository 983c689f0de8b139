"""Reward models: scores, explanations, comparisons and steering, from a folder and to a folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
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
from armorm.errors import ArmormError, CheckpointError, InputError, NonFiniteError, RecipeError
from armorm.features import (
    Backbone,
    BackboneFeatures,
    BackboneOptions,
    FeatureBackbone,
    MergedPrompts,
    load_engine,
    merge_prompts,
)
from armorm.files import sha256_of, sha256_of_files, sha256_of_json
from armorm.heads import Gate, GateTraining, RewardHead, VerbosityDebiasing
from armorm.hub import HEAD_PREFIXES, METADATA_FILE
from armorm.hub.weights import sample_hash, stored_tensors
from armorm.model.answers import Rewards, coefficients_of, weigh_rewards
from armorm.model.confounder import Confounder
from armorm.model.explaining import comparison_of, explanation_of
from armorm.model.explanations import Comparison, Explanation
from armorm.model.layout import FIXED_WEIGHTS, SCORE_QUANTILES, Heads
from armorm.model.loading import load_checkpoint
from armorm.model.predictions import Predictions
from armorm.model.profiles import FOLDER, SteeringProfile, named_profile
from armorm.model.ranking import Ranking, ranking_of
from armorm.model.reference import ModelReference, Reference
from armorm.model.risk import Risk
from armorm.model.saving import save_model
from armorm.model.self_check import PROMPT, RESPONSE, SelfCheck, hash_ids, sample_state
from armorm.model.steering import NO_EFFECT, Steering
from armorm.model.trajectory import Traced, Trajectory, read_states
from armorm.model.uncertainty import ModelUncertainty, group_differences, no_uncertainty
from armorm.objectives import ObjectiveSet
from armorm.progress import Advance


class RewardModel:
    """A frozen language model with many reward objectives, and a gate that weighs them by prompt.

    score = coefficients . rewards, where rewards are the regression layer's predictions at the last
    token, and coefficients = transform @ gate(prompt), which steering may change (paper, equation
    4; :mod:`armorm.model.steering`).

    Its methods may be called from several threads; the backbone computes for one at a time.

    Args:
        backbone: The frozen language model.
        heads: Regression layer, transform, gate and their training record.
        steering: Changes to the weights of the objectives.
        uncertainty: Statistics of the ratings, for standard deviations; ``None`` if unknown.
        reference: Held-out prompts that explanations compare with; ``None`` if unknown.
        profiles: Profiles that are saved with the model.
        profile: Profile that the model judges by, which takes the place of ``steering``.

    Example:
        >>> from armorm import RewardModel
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> model.objectives.names[:3]
        ('helpdesk-correctness', 'helpdesk-courtesy', 'helpdesk-verbosity')
        >>> best, rewards = model.best_of("What is 2 plus 3?", ["2 plus 3 is 5.", "No idea."])
        >>> best == int(rewards.score.argmax())
        True
        >>> model.steer({"helpdesk-courtesy": 2.0}).steering
        Steering(factors={'helpdesk-courtesy': 2.0})
    """

    def __init__(
        self,
        backbone: FeatureBackbone,
        heads: Heads,
        steering: Steering | None = None,
        uncertainty: ModelUncertainty | None = None,
        reference: ModelReference | None = None,
        profiles: Iterable[SteeringProfile] = (),
        profile: SteeringProfile | None = None,
    ) -> None:
        self.backbone = backbone
        self.heads = heads
        self.uncertainty = uncertainty
        self.reference = reference
        self._confounder = Confounder.of(heads.objectives, heads.transform)
        self._judge_by(steering, profile)
        self._keep(profiles)

    def _judge_by(self, steering: Steering | None, profile: SteeringProfile | None) -> None:
        if profile is not None:
            self._check_profile(profile)
            steering = profile.steering
        self.profile = profile
        self.steering = steering or Steering()
        self._compiled = self.heads.compile(self.steering)

    def _keep(self, profiles: Iterable[SteeringProfile]) -> None:
        self.profiles = {profile.name: profile for profile in profiles}
        for profile in self.profiles.values():
            self._check_profile(profile)

    def _check_profile(self, profile: SteeringProfile) -> None:
        profile.check(self.objectives)
        if profile.risk is not None and self.uncertainty is None:
            raise RecipeError(f"profile {profile.name}: risk: {no_uncertainty()}")

    @classmethod
    def of(
        cls,
        backbone: FeatureBackbone,
        objectives: ObjectiveSet,
        head: RewardHead,
        debiasing: VerbosityDebiasing,
        gate: GateTraining,
    ) -> RewardModel:
        """Return the model that the two stages fitted on features of this backbone.

        Args:
            backbone: The frozen language model.
            objectives: Names and scales of the head's columns.
            head: See :func:`armorm.fit_reward_head`.
            debiasing: See :func:`armorm.fit_debiasing`.
            gate: See :func:`armorm.fit_gate`.
        """
        return cls(backbone, Heads.of(objectives, head, debiasing, gate))

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
            verify: Compare weights, tokenizer and the answer to a fixed conversation with what was
                saved in the folder (:mod:`armorm.model.self_check`).
            **fields: Fields of ``options`` to replace (``dtype``, ``device``, ``max_length``,
                ``engine`` …); see :meth:`armorm.Backbone.from_pretrained`.

        Raises:
            CheckpointError: The folder is not a complete gated reward model, or fails its own
                self-check.
        """
        options = BackboneOptions.of(options, fields)
        if options.layer is not None:
            raise RecipeError(
                "layer: a reward model is read after its last layer, which its heads were fitted "
                "on. Train on another one by backbone.layer of the recipe."
            )
        checkpoint = load_checkpoint(name_or_path, options.revision)
        backbone = load_engine(checkpoint.folder, options)
        checkpoint.heads.check_fits(backbone.hidden_size, str(name_or_path))
        try:
            model = cls(
                backbone,
                checkpoint.heads,
                checkpoint.steering,
                ModelUncertainty.in_folder(checkpoint.folder),
                ModelReference.in_folder(checkpoint.folder),
                checkpoint.profiles.values(),
                checkpoint.profile,
            )
        except RecipeError as error:
            raise CheckpointError(f"{checkpoint.folder / FOLDER}: {error}") from None
        if verify and checkpoint.self_check is not None:
            checkpoint.self_check.verify(
                model.self_check(checkpoint.folder, checkpoint.fingerprint),
                str(name_or_path),
                quantized=backbone.quantized,
            )
        return model

    def save_pretrained(self, path: str | Path, *, license_id: str | None = None) -> None:
        """Write a model folder: weights, config, tokenizer, model card and ``armorm.json``.

        The folder also loads without this package, by
        ``AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)``.
        Steering is written into ``reward_transform_matrix``, so that every program that reads the
        folder scores as this model does; loaded by this package, the model is steered as before.
        The profiles, with the one that the model judges by, stand in ``profiles/NAME.yaml``.

        Args:
            path: The folder. An older model of this package in it is replaced when the new one is
                complete; a folder with other files is refused.
            license_id: For the model card, as the hub spells it (``apache-2.0``, ``llama3`` …).

        Raises:
            ArmormError: The steering renormalises, or another engine than transformers holds the
                weights.
            OutputError: The folder holds other files, or cannot be written.
        """
        if not isinstance(self.backbone, Backbone):
            raise ArmormError(
                "The engine holds the weights in a form of its own, so it cannot save them. Load "
                "the model with engine='transformers'."
            )
        transform = torch.from_numpy(self._compiled.as_transform())
        stored = replace(self.heads, transform=transform)
        save_model(Path(path), self, self.backbone, stored, license_id)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license_id: str | None = None,
        private: bool = True,
        token: str | None = None,
    ) -> str:
        """Upload the model folder to the Hugging Face hub and return the address of the commit.

        Args:
            repo_id: ``name`` or ``organisation/name``; created if it does not exist.
            license_id: See :meth:`save_pretrained`.
            private: Create a private repository.
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

    def self_check(self, folder: Path, fingerprint: str) -> SelfCheck:
        """Answer the fixed conversation of the self-check.

        Args:
            folder: Model folder that holds the weights.
            fingerprint: Hash of its heads.
        """
        encoded = self.backbone.encoder.without_limit().encode(PROMPT, [RESPONSE])
        features = self.backbone.features([encoded])
        rewards = self.weigh(self._predict(features, merge_prompts([encoded])))
        return SelfCheck(
            prompt=tuple({**message} for message in PROMPT),
            response=RESPONSE,
            heads_sha256=fingerprint,
            weights_sha256=_hash_weights(folder),
            ids_sha256=hash_ids(encoded),
            states=(
                sample_state(features.prompts[0].tolist()),
                sample_state(features.responses[0].tolist()),
            ),
            score=float(rewards.score[0]),
            magnitude=float(rewards.contributions[0].abs().sum()),
            dtype=self.backbone.dtype,
        )

    @property
    def objectives(self) -> ObjectiveSet:
        """Names and scales of the objectives."""
        return self.heads.objectives

    @property
    def gate(self) -> Gate:
        """The gating network."""
        return self.heads.gate

    def steer(
        self,
        factors: Mapping[str, float] | Steering | None = None,
        *,
        profile: SteeringProfile | str | None = None,
        **knobs: Any,
    ) -> RewardModel:
        """Return the same model with other weights of the objectives.

        It shares the backbone and the heads with this one, whose own steering it does not inherit.

        Args:
            factors: A :class:`~armorm.Steering`, or factors by objective.
            profile: A :class:`~armorm.SteeringProfile`, or the name of one that is saved with the
                model, in place of all others: its steering, its floors and its risk.
            **knobs: Other attributes of :class:`~armorm.Steering`, such as ``weights``.

        Raises:
            RecipeError: An unknown objective or profile, or a value that cannot be used.
        """
        if (knobs and isinstance(factors, Steering)) or (
            profile is not None and (factors or knobs)
        ):
            raise RecipeError("steer: give a Steering, or its settings, or a profile; not two.")
        if isinstance(profile, str):
            profile = named_profile(self.profiles, profile)
        if not isinstance(factors, Steering):
            factors = Steering.from_dict({"factors": factors or {}, **knobs})
        steered = copy(self)
        steered._judge_by(factors, profile)
        return steered

    def steer_by(self, judging: Steering | SteeringProfile | str | None) -> RewardModel:
        """Return the model under a steering, a profile or the name of one; as it is for None."""
        if judging is None:
            return self
        return self.steer(judging) if isinstance(judging, Steering) else self.steer(profile=judging)

    def with_profiles(self, *profiles: SteeringProfile) -> RewardModel:
        """Return the same model with more profiles, which :meth:`save_pretrained` writes.

        A profile takes the place of one of its name.

        Raises:
            RecipeError: A profile names an objective that the model has not, or a risk that it
                cannot tell.
        """
        model = copy(self)
        model._keep([*self.profiles.values(), *profiles])
        return model

    def with_fixed_weights(self, name: str = "The model") -> RewardModel:
        """Return the same model with the fixed weights that were trained beside its gate.

        Args:
            name: Name of the model in messages.

        Raises:
            CheckpointError: The model's training record holds none.
        """
        weights = self.heads.training.get(FIXED_WEIGHTS)
        if not weights:
            raise CheckpointError(
                f"{name} holds no fixed weights: it was not trained by `armorm train`. Give "
                "weights of your own: --steer weights.NAME=1."
            )
        # A weight on an objective that the debiasing removes has no effect, and would be warned of.
        acts = self.heads.transform.abs().amax(dim=0) > NO_EFFECT
        used = {
            name: weights[name] for name, a in zip(self.objectives.names, acts, strict=True) if a
        }
        return self.steer(weights=used)

    def score(
        self,
        conversations: Sequence[Conversation],
        *,
        uncertainty: bool = False,
        risk: Risk | float | None = None,
    ) -> Rewards:
        """Score conversations, each a list of messages that ends with the assistant's.

        Args:
            conversations: What to score.
            uncertainty: Also say how sure each reward and score is, and how unlike the rated
                rows each response is (:class:`RewardUncertainty`).
            risk: Also give ``Rewards.pessimistic``, scores less the price of their epistemic
                deviation: a :class:`Risk`, or the number of deviations to take off.  Each
                conversation is taken alone; responses to one prompt are better compared by
                :meth:`score_responses`.

        Raises:
            InputError: a conversation is malformed; ``row`` is its one-based position.
            OverlongError: a conversation is longer than the model can read.
            ArmormError: ``uncertainty`` or ``risk`` is asked of a model folder that does not
                hold it.
        """
        predictions = self.predict(self._encode(conversations))
        return self.weigh(predictions, uncertainty=uncertainty, risk=risk, compared=False)

    def _encode(self, conversations: Sequence[Conversation]) -> list[EncodedPrompt]:
        encoded = []
        for number, conversation in enumerate(conversations, start=1):
            try:
                prompt, response = located_in("messages", validate_conversation, conversation)
                encoded.append(self.backbone.encoder.encode(prompt, [response]))
            except InputError as error:
                raise error.at(None, number) from None
        return encoded

    def score_ids(
        self,
        input_ids: Tensor | Sequence[Any],
        attention_mask: Tensor | Sequence[Any] | None = None,
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
        encoded = []
        for number, ids in enumerate(rows, start=1):
            try:
                encoded.append(self.encode_ids(ids))
            except InputError as error:
                raise error.at(None, number) from None
        return self.score_encoded(encoded)

    def encode_ids(self, ids: Sequence[int]) -> EncodedPrompt:
        """Return one conversation that is token ids already, with its boundary.

        Raises:
            InputError: An id is not of this model, or there is no certain boundary.
        """
        limit = self.backbone.vocabulary_size
        for token in ids:
            if not 0 <= token < limit:
                raise InputError(
                    "input_ids",
                    token,
                    f"not a token id from 0 to {limit - 1}",
                    "Use the tokenizer of this model.",
                )
        return self.backbone.encoder.from_ids(ids)

    def score_responses(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        risk: Risk | float | None = None,
    ) -> Rewards:
        """Score several responses to one prompt.

        Args:
            prompt: Messages, or the text of one user turn.
            responses: Texts.
            risk: See :meth:`score`; the deviation is that of the difference from the responses'
                mean, so that the error they share costs nothing.
        """
        checked = [validate_response(response) for response in responses]
        encoded = self.backbone.encoder.encode(validate_prompt(prompt), checked)
        try:
            return self.score_encoded([encoded], risk=risk)
        except NonFiniteError as error:
            raise replace(error, field=f"responses[{error.positions[0]}]", row=None) from None

    def best_of(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        floors: Mapping[str, float] | None = None,
        risk: Risk | float | None = None,
    ) -> tuple[int, Rewards]:
        """Return the position of the best response, the first of equal ones, and all scores.

        Args:
            prompt: Messages, or the text of one user turn.
            responses: Texts.
            floors: Least unit reward of some objectives: a response below any of them loses to
                every response that is not, such as ``{"safety": 0.5}``. They stand beside those of
                the model's profile, or in their place.
            risk: Rank by scores less the price of their uncertainty: see :meth:`score_responses`.
        """
        rewards = self.score_responses(prompt, responses, risk=risk)
        return rewards.ranking(floors)[0], rewards

    def explain(self, conversation: Conversation) -> Explanation:
        """Return the score of one conversation with what every objective adds to it."""
        encoded = self._encode([conversation])
        predictions = self.predict(encoded)
        known = self.uncertainty is not None
        return self.explanation(
            self.weigh(predictions, uncertainty=known, neighbours=True, compared=False)
        )

    def explanation(self, rewards: Rewards) -> Explanation:
        """Return the explanation of the first score, which this model gave, however steered."""
        first = rewards.where(torch.tensor([0]))
        percentiles = self.percentiles(first)
        return explanation_of(
            first,
            self.heads,
            self._confounder,
            self._sample(),
            None if percentiles is None else percentiles[0],
        )

    def trajectory(self, conversation: Conversation, *, closed: bool = False) -> Trajectory:
        """Return the rewards of one conversation after every token of its response.

        Args:
            conversation: Messages that end with the assistant's.
            closed: See :meth:`trajectories`.

        Raises:
            InputError: See :meth:`score`; without a row.
            ArmormError: The engine gives the state at the last token only.
        """
        prompt, response = located_in("messages", validate_conversation, conversation)
        traced = self.backbone.encoder.trace(prompt, response)
        sure = self.uncertainty is not None
        return self.trajectories_traced([traced], closed=closed, uncertainty=sure)[0]

    def trajectories(
        self,
        conversations: Sequence[Conversation],
        *,
        closed: bool = False,
        uncertainty: bool = False,
    ) -> list[Trajectory]:
        """Return the rewards of conversations after every token of their responses.

        Args:
            conversations: Each a list of messages that ends with the assistant's.
            closed: Close the turn after every token before it is read, as the turn of a complete
                response is closed: row t is then the score of the response cut after t tokens.
                It costs the closing tokens once more for every token. Otherwise states are read
                at the tokens themselves, which costs what scoring costs, and no head was fitted
                on such states unless the recipe says ``head.prefixes``.
            uncertainty: Also give novelty and deviations at each token.

        Raises:
            InputError: A conversation is malformed; ``row`` is its one-based position.
            OverlongError: A conversation is longer than the model can read.
            NonFiniteError: A reward is NaN or infinite.
            ArmormError: The engine gives the state at the last token only, or there is no
                uncertainty.
        """
        traced = []
        for number, conversation in enumerate(conversations, start=1):
            try:
                prompt, response = located_in("messages", validate_conversation, conversation)
                traced.append(self.backbone.encoder.trace(prompt, response))
            except InputError as error:
                raise error.at(None, number) from None
        return self.trajectories_traced(traced, closed=closed, uncertainty=uncertainty)

    @torch.inference_mode()
    def trajectories_traced(
        self, traced: Sequence[Traced], *, closed: bool = False, uncertainty: bool = False
    ) -> list[Trajectory]:
        """Return the trajectories of what ``backbone.encoder.trace`` traced.

        Args:
            traced: Responses, each with its prompt.
            closed: See :meth:`trajectories`.
            uncertainty: See :meth:`trajectories`.
        """
        known = self._own_uncertainty() if uncertainty else None
        found: list[Trajectory] = []
        for read in read_states(self.backbone, traced, closed=closed):
            coefficients = coefficients_of(self._compiled, self.gate(read.prompt[None]))[0]
            trajectory = Trajectory(
                text=read.text,
                token_ids=read.token_ids,
                tokens=read.tokens,
                closing=read.closing,
                closed=closed,
                rewards=read.states.double() @ self.heads.weight.double().T,
                coefficients=coefficients.double(),
                objectives=self.objectives.names,
                steering=None if self.steering.is_neutral else self.steering,
                profile=self.profile,
            )
            trajectory.check_finite(len(found) + 1)
            if known is not None:
                sure = known.of(read.states, coefficients.expand(len(read.states), -1))
                trajectory = replace(trajectory, uncertainty=sure)
            found.append(trajectory)
        return found

    def compare(self, prompt: Conversation | str, a: str, b: str) -> Comparison:
        """Compare two responses and return what each objective adds to the margin."""
        return self.comparison(self.score_responses(prompt, [a, b]))

    def comparison(self, rewards: Rewards) -> Comparison:
        """Return the comparison of the first two scores, which this model gave, however steered."""
        margin = float(rewards.score[0] - rewards.score[1])
        probability = self._probability(margin, rewards.steering or Steering())
        return comparison_of(rewards, self.heads, probability, self._confounder)

    def rank(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        floors: Mapping[str, float] | None = None,
    ) -> Ranking:
        """Rank responses to one prompt: by score, under each objective alone, and by dominance.

        Args:
            prompt: Messages, or the text of one user turn.
            responses: Texts.
            floors: See :meth:`best_of`.
        """
        return self.ranking(self.score_responses(prompt, responses), floors)

    def ranking(self, rewards: Rewards, floors: Mapping[str, float] | None = None) -> Ranking:
        """Return the ranking of responses to one prompt, which this model scored."""
        return ranking_of(rewards, self.heads, floors)

    def percentiles(self, rewards: Rewards) -> list[float] | None:
        """Return, for each score of this model, the percentage of reference scores below it.

        The reference are the responses of the pairs that were held out of the training; for steered
        scores a sample of them, under the same steering.

        Returns:
            Numbers from 0 to 100; ``None`` if the model folder holds no reference.

        Example:
            >>> from armorm import RewardModel
            >>> model = RewardModel.from_pretrained("runs/quickstart/model")
            >>> rewards = model.score_responses("What is 2 plus 3?", ["2 plus 3 is 5.", "No."])
            >>> good, bad = model.percentiles(rewards)
            >>> 0 <= bad <= good <= 100
            True
        """
        quantiles = self.heads.training.get(SCORE_QUANTILES)
        if rewards.steering is not None:
            quantiles = self._steered_quantiles(rewards.steering)
        if quantiles is None:
            return None
        percentiles: list[float] = np.interp(
            rewards.score.double().numpy(), quantiles, np.arange(len(quantiles))
        ).tolist()
        return percentiles

    def _steered_quantiles(self, steering: Steering) -> Float[np.ndarray, " 101"] | None:
        """Return the 0th to the 100th percentile of the reference scores under a steering."""
        sample = self._sample()
        if sample is None:
            return None
        compiled = self.heads.compile(steering, warn=False)
        coefficients = coefficients_of(compiled, sample.gating)[sample.owners]
        scores = weigh_rewards(coefficients, sample.rewards)[1].double().numpy()
        quantiles: Float[np.ndarray, " 101"] = np.percentile(scores, np.arange(101))
        return quantiles

    def _sample(self) -> Reference | None:
        if self.reference is None:
            return None
        self.reference.check_fits(*self.heads.weight.shape)
        return self.reference.sample

    def fingerprint(self) -> str:
        """Return a hash of everything that a score depends on.

        Of the backbone's weights only samples are hashed (:func:`armorm.hub.weights.sample_hash`).
        """
        folder = self.backbone.folder
        others = [file for file in _settings_files(folder) if file.name != METADATA_FILE]
        return sha256_of_json(
            [
                _hash_weights(folder),
                sha256_of_files(others),
                self.backbone.encoder.template,
                [type(self.backbone).__name__, self.backbone.dtype, self.backbone.layer],
                self.heads.fingerprint(),
                self.steering.as_dict(),
                None if self.profile is None else self.profile.reference,
            ]
        )

    def preference_probability(self, margin: float) -> float | None:
        """Return sigmoid(beta * margin), the probability that the first response is preferred.

        It is ``None`` if the model folder holds no beta, or steering changed the scale of scores.
        """
        return self._probability(margin, self.steering)

    def _probability(self, margin: float, steering: Steering) -> float | None:
        if self.heads.beta is None or not steering.keeps_scale:
            return None
        return 0.5 * (1.0 + math.tanh(0.5 * self.heads.beta * margin))

    @torch.inference_mode()
    def score_encoded(
        self,
        encoded: Sequence[EncodedPrompt],
        *,
        uncertainty: bool = False,
        risk: Risk | float | None = None,
        keep_nonfinite: bool = False,
        advance: Advance | None = None,
    ) -> Rewards:
        """Score what ``backbone.encoder`` encoded: all responses, prompt by prompt.

        Equal prompts and equal conversations are computed once, so equal responses to one prompt
        have equal scores, bit by bit.

        Args:
            encoded: Prompts with their responses.
            uncertainty: See :meth:`score`.
            risk: See :meth:`score_responses`; equal prompts are one.
            keep_nonfinite: Return rows of NaN or infinity, at which ``Rewards.finite`` is false,
                instead of raising an error.
            advance: Called with the share of the work that is done, and its tokens.

        Raises:
            NonFiniteError: a score is NaN or infinite, unless ``keep_nonfinite``.
        """
        predictions = self.predict(encoded, advance=advance)
        return self.weigh(
            predictions, uncertainty=uncertainty, risk=risk, keep_nonfinite=keep_nonfinite
        )

    @torch.inference_mode()
    def predict(
        self, encoded: Sequence[EncodedPrompt], *, advance: Advance | None = None
    ) -> Predictions:
        """Compute the part of an answer that steering does not change, in one run of the backbone.

        ``model.steer(steering).weigh(model.predict(encoded))`` scores as the steered model does;
        so answers that are steered differently share a batch.

        Args:
            encoded: See :meth:`score_encoded`.
            advance: See :meth:`score_encoded`.

        Example:
            >>> from armorm import RewardModel
            >>> model = RewardModel.from_pretrained("runs/quickstart/model")
            >>> prompt = [{"role": "user", "content": "What is 2 plus 3?"}]
            >>> predictions = model.predict([model.backbone.encoder.encode(prompt, ["5", "6"])])
            >>> softer = model.steer({"helpdesk-courtesy": 2.0})
            >>> bool((softer.weigh(predictions).score != model.weigh(predictions).score).all())
            True
        """
        # The heads too run on distinct conversations: the rows of a matrix product depend on
        # their position, by rounding.
        merged = merge_prompts(encoded)
        tokens = max(merged.tokens, 1)
        features = self.backbone.features(
            merged.prompts,
            None if advance is None else lambda done: advance(done / tokens, done),
        )
        return self._predict(features, merged)

    @torch.inference_mode()
    def _predict(self, features: BackboneFeatures, merged: MergedPrompts) -> Predictions:
        return Predictions(
            features=features.responses,
            prompts=features.prompts,
            # In float64, since kernels round a row by its position: equal responses must tie.
            rewards=(features.responses.double() @ self.heads.weight.double().T).float(),
            gating=self.gate(features.prompts),
            owners=tuple(merged.owners),
            responses=tuple(merged.response_numbers),
            sizes=tuple(merged.sizes),
            computed_tokens=features.response_tokens,
        )

    @torch.inference_mode()
    def weigh(
        self,
        predictions: Predictions,
        *,
        uncertainty: bool = False,
        risk: Risk | float | None = None,
        neighbours: bool = False,
        compared: bool = True,
        keep_nonfinite: bool = False,
    ) -> Rewards:
        """Weigh predictions by the gate and this model's steering.

        Args:
            predictions: Result of :meth:`predict` of this model, however it is steered.
            uncertainty: See :meth:`score`.
            risk: See :meth:`score`. Default: that of the model's profile.
            neighbours: Also give ``Rewards.neighbours``, if the model folder holds a reference.
            compared: Take the risk of differences from the mean of the responses to one prompt,
                and not of each score alone.
            keep_nonfinite: See :meth:`score_encoded`.

        Raises:
            NonFiniteError: a score is NaN or infinite, unless ``keep_nonfinite``.
        """
        risk = Risk.of(risk) or (None if self.profile is None else self.profile.risk)
        known = self._own_uncertainty() if uncertainty or risk is not None else None
        owners = list(predictions.owners)
        # One product a prompt: responses to it have equal coefficients, whatever their number.
        coefficients = coefficients_of(self._compiled, predictions.gating)[owners]
        contributions, score = weigh_rewards(coefficients, predictions.rewards)
        rewards = Rewards(
            score=score,
            rewards=predictions.rewards,
            gating=predictions.gating[owners],
            coefficients=coefficients,
            contributions=contributions,
            objectives=self.objectives.names,
            steering=None if self.steering.is_neutral else self.steering,
            profile=self.profile,
        )
        if known is not None and uncertainty:
            sure = known.of(predictions.features, coefficients)
            rewards = replace(rewards, uncertainty=sure)
        reference = self._sample() if neighbours else None
        if reference is not None:
            around = reference.neighbours(predictions.prompts)
            rewards = replace(rewards, neighbours=around[owners])
        rows = torch.tensor(predictions.responses, dtype=torch.long)
        rewards = rewards.where(rows)
        if known is not None and risk is not None:
            features = predictions.features[rows].cpu()
            if compared:
                features = group_differences(features, torch.tensor(owners, dtype=torch.long)[rows])
            price = risk.price(known.of_scores(features, rewards.coefficients))
            pessimistic = rewards.score.double() - torch.from_numpy(price)
            rewards = replace(rewards, pessimistic=pessimistic.float())
        if not keep_nonfinite:
            rewards.check_finite()
        return rewards

    def _own_uncertainty(self) -> ModelUncertainty:
        if self.uncertainty is None:
            raise no_uncertainty()
        self.uncertainty.check_belongs(self.heads.weight)
        return self.uncertainty


def _hash_weights(folder: Path) -> str:
    if folder.is_file():  # a backbone from a GGUF file
        return sha256_of(folder) or ""
    tensors = stored_tensors(folder)
    return sample_hash(tensors, [name for name in tensors if not name.startswith(HEAD_PREFIXES)])


def _settings_files(folder: Path) -> list[Path]:
    """Return the files that the tokenizer and the architecture are read from."""
    patterns = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
    return sorted(file for pattern in patterns for file in folder.glob(pattern))
