"""Reward models of other people: any sequence classifier of transformers with a chat template.

One label is a Bradley–Terry score.  Several labels are attributes, such as HelpSteer2's, and the
score is their sum with weights that the user gives.

The score is read at the last token of the conversation.  transformers itself searches for the last
token that is not padding, which is the one before it where the padding token also ends turns.  So
no conversation is padded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from armorm.conversations import Conversation, ConversationEncoder, EncodedPrompt
from armorm.errors import CheckpointError, RecipeError, did_you_mean
from armorm.evaluation.scorers.base import Answered, Scored, Scorer, score_encoded_rows
from armorm.evaluation.scorers.batching import by_length
from armorm.evaluation.scorers.linear_heads import LinearHeadScorer, scored_outputs
from armorm.evaluation.scorers.whole_models import load_whole
from armorm.features import Backbone, BackboneOptions, FeatureBackbone, load_engine, merge_prompts
from armorm.features.classifier import classifier_around
from armorm.files import sha256_of_files, sha256_of_json
from armorm.hub.weights import read_object, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE: tuple[Conversation, list[str]] = ([{"role": "user", "content": "hello"}], ["yes"])
"""Conversation on which the quick way to compute a score is compared with the model's own."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest accepted difference of the two, divided by the size of the terms that are summed."""


def open_classifier(
    folder: Path,
    name: str,
    loading: BackboneOptions,
    attribute_weights: Mapping[str, float],
) -> Scorer:
    """Load a sequence classifier as a scorer.

    A decoder with a linear head, as nearly all reward models are, runs like a backbone: each prompt
    is computed once for all its responses.  Other architectures run in batches of conversations of
    one length.

    Args:
        folder: Local folder of the model.
        name: Name in messages and tables.
        loading: How the model is loaded and run.
        attribute_weights: Weights of the labels, if there are several.

    Raises:
        CheckpointError: The folder holds no trained classifier.
        RecipeError: The labels need weights, or a weight names no label.
    """
    config = read_object(folder / "config.json")
    if (folder / "adapter_config.json").exists() or "base_model_name_or_path" in config:
        raise CheckpointError(
            f"{name} holds adapters without their model. Merge them: PeftModel.merge_and_unload()."
        )
    head = f"{config.get('value_head_prefix') or 'score'}"
    tensors = stored_tensors(folder)
    if f"{head}.weight" in tensors:
        outputs = tensors[f"{head}.weight"].shape[0]
        coefficients = _coefficients(name, config, outputs, attribute_weights)
        backbone = load_engine(folder, loading)
        stored = {
            part: _read(tensors[f"{head}.{part}"].file, f"{head}.{part}")
            for part in ("weight", "bias")
            if f"{head}.{part}" in tensors
        }
        scorer = LinearHeadScorer(
            backbone,
            stored["weight"],
            stored.get("bias"),
            coefficients,
            name=name,
            kind="sequence classifier",
        )
        if _agrees(scorer, backbone):
            return scorer
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else "?"
    if not architecture.endswith("ForSequenceClassification"):
        raise CheckpointError(
            f"{name} is a {architecture} without a score head, so it is no reward model. A "
            f"language model can judge as pairwise:{name}, if it was trained to, or behind a "
            "server as judge:MODEL@URL."
        )
    return _whole(folder, name, loading, config, attribute_weights)


def _coefficients(
    name: str, config: Mapping[str, Any], outputs: int, weights: Mapping[str, float]
) -> dict[str, float] | None:
    """Return the weight of each label; ``None`` for a single label, which is the score.

    Raises:
        RecipeError: There are several labels and no weights, or a weight names no label.
    """
    labels = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(outputs)}
    names = [str(labels.get(str(i))) for i in range(outputs)]
    if len(labels) != outputs:
        raise CheckpointError(
            f"{name}: id2label of config.json names {len(labels)} labels, the score head has "
            f"{outputs}."
        )
    for label in weights:
        if label not in names:
            hint = did_you_mean(label, names)
            raise RecipeError(f"--attribute-weight: {name} has no label {label!r}. {hint}")
    if outputs == 1:
        if weights:
            raise RecipeError(f"--attribute-weight: {name} has one label, which is its score.")
        return None
    if not any(weights.values()):
        raise RecipeError(
            f"{name} has {outputs} labels ({', '.join(names)}) and no score of its own. Weigh "
            f"them: --attribute-weight {names[0]}=1,{names[-1]}=0.5"
        )
    return {label: float(weights.get(label, 0.0)) for label in names}


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


@torch.inference_mode()
def _agrees(scorer: LinearHeadScorer, backbone: FeatureBackbone) -> bool:
    """Return true if the classifier of transformers computes the same from the same decoder.

    It does unless the architecture has something between the decoder's states and its head.
    """
    if not isinstance(backbone, Backbone):
        return True
    outputs, width = scorer.weight.shape
    score = torch.nn.Linear(width, outputs)
    score.weight.data, score.bias.data = scorer.weight, scorer.bias
    try:
        model = classifier_around(backbone.model, score).eval()
    except CheckpointError:
        return False
    model.config.pad_token_id = None
    encoded = backbone.encoder.without_limit().encode(*PROBE)
    ids = torch.tensor([encoded.sequences[0]], device=backbone.device)
    theirs = model(input_ids=ids).logits[0].double().cpu()
    (ours,) = torch.from_numpy(scorer.outputs([encoded]))
    state = backbone.features([encoded]).responses[0].double()
    size = (scorer.weight * state).abs().sum(dim=1) + 1e-6
    agreed = ((theirs - ours).abs() / size).max() <= TOLERANCE.get(backbone.model.dtype, 5e-2)
    return bool(agreed)


def _whole(
    folder: Path,
    name: str,
    loading: BackboneOptions,
    config: Mapping[str, Any],
    weights: Mapping[str, float],
) -> ClassifierScorer:
    """Load the classifier as transformers has it.

    Raises:
        CheckpointError: A weight is missing, which transformers would make up.
    """
    from transformers import AutoModelForSequenceClassification

    if loading.engine != "transformers":
        raise RecipeError(f"{name} has no plain linear head: leave out --engine.")
    incomplete = (
        ", which transformers would fill with random numbers: it has no trained score head. Load "
        "the reward model, not its base model."
    )
    kind = AutoModelForSequenceClassification
    model, encoder, tokens = load_whole(kind, folder, name, loading, incomplete)
    coefficients = _coefficients(name, config, model.config.num_labels, weights)
    return ClassifierScorer(model, encoder, folder, name, coefficients, tokens)


class ClassifierScorer(Scorer):
    """A sequence classifier that transformers runs as a whole, on conversations of one length.

    Args:
        model: The classifier.
        encoder: Encoder of conversations.
        folder: Folder that it was loaded from.
        name: Name in tables.
        coefficients: See :class:`LinearHeadScorer`.
        batch_tokens: Most tokens of a batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: ConversationEncoder,
        folder: Path,
        name: str,
        coefficients: Mapping[str, float] | None,
        batch_tokens: int,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        # No id is padding: transformers then reads at the last token of every row.
        self.model.config.pad_token_id = -1
        self.model.config.get_text_config().pad_token_id = -1
        self.encoder = encoder
        self.folder = folder
        self.name = name
        self.objectives = tuple(coefficients or ())
        self.coefficients = np.array([*coefficients.values()] if coefficients else [1.0])
        self.batch_tokens = batch_tokens

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Hashes of weights, settings and template."""
        files = sorted(self.folder.glob("*.json"))
        return {
            "kind": "sequence classifier",
            "weights_sha256": sha256_of_files(list(self.folder.glob("*.safetensors"))),
            "files_sha256": sha256_of_files(files),
            "template_sha256": sha256_of_json(self.encoder.template),
            "dtype": str(self.model.dtype),
            "coefficients": dict(zip(self.objectives, self.coefficients.tolist(), strict=False)),
            "max_length": self.encoder.max_length,
            "overlong": self.encoder.overlong,
        }

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Score rows; equal conversations are computed once."""
        return score_encoded_rows(self.encoder, rows, self._score)

    def _score(self, encoded: list[EncodedPrompt]) -> list[Scored]:
        merged = merge_prompts(encoded)
        distinct = [ids for prompt in merged.prompts for ids in prompt.sequences]
        outputs = self._outputs(distinct)[list(merged.response_numbers)]
        sizes = [len(one.sequences) for one in encoded]
        return scored_outputs(outputs, sizes, self.coefficients, named=bool(self.objectives))

    def _outputs(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
        def run(ids: Tensor) -> Tensor:
            logits: Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            return logits

        width = len(self.coefficients)
        return by_length(sequences, width, self.batch_tokens, self.model.device, run)
