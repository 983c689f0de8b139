"""ArmoRM with a mixture-of-experts gate, for transformers alone (4.51 or newer).

This file travels in the model folder, so that the folder loads without the package that wrote it::

    AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)

It holds the forward pass only.  The configuration has a model type of its own: a library that does
not know the gate refuses the folder, instead of scoring with a freshly initialised head.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

# Keys of config.json that describe the reward model; every other key is the backbone's.
_SHARED = (
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "label2id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class ArmoRMConfig(PretrainedConfig):  # type: ignore[misc]
    """A decoder's configuration, flat as in the released checkpoint, with the gate's beside it.

    Args:
        backbone_model_type: The decoder's own ``model_type``.
        num_objectives: Number k of objectives; ``id2label`` holds their names.
        gating_temperature: The gate's logits are divided by it.
        gating_hidden_dim: Width of the gate's hidden layers.
        gating_n_hidden: Number of the gate's hidden layers.
        boundary_pattern: Token ids around the one that closes the last user turn, where the gate
            reads: at the pattern's last occurrence.
        boundary_offset: Position in the pattern of the token at which the gate reads.
        boundary_lead: Number of ids between the pattern and the response.
        boundary_answer_end: Id of the control token after each response, where text could spell
            the pattern (it must then occur once in the last turn); -1 if there is none.
        boundary_trailing: Ids that the chat template writes after a response and that are no part
            of it.
        **fields: The decoder's configuration.
    """

    model_type = "armorm"

    def __init__(
        self,
        backbone_model_type: str = "llama",
        num_objectives: int = 19,
        gating_temperature: float = 10.0,
        gating_hidden_dim: int = 1024,
        gating_n_hidden: int = 3,
        boundary_pattern: Any = (),
        boundary_offset: int = 0,
        boundary_lead: int = 0,
        boundary_answer_end: int | None = None,
        boundary_trailing: Any = (),
        **fields: Any,
    ) -> None:
        fields.pop("model_type", None)
        shared = {name: fields.pop(name) for name in _SHARED if name in fields}
        if shared.get("id2label"):
            shared.pop("num_labels", None)  # tools that want one logit say 1; the labels stay k
        self.backbone_model_type = backbone_model_type
        self.num_objectives = num_objectives
        self.gating_temperature = gating_temperature
        self.gating_hidden_dim = gating_hidden_dim
        self.gating_n_hidden = gating_n_hidden
        self.boundary_pattern = list(boundary_pattern)
        self.boundary_offset = boundary_offset
        self.boundary_lead = boundary_lead
        self.boundary_answer_end = boundary_answer_end
        self.boundary_trailing = list(boundary_trailing)
        tokens = {name: shared[name] for name in _TOKEN_IDS if name in shared}
        self.backbone_config = AutoConfig.for_model(backbone_model_type, **fields, **tokens)
        super().__init__(**shared)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the backbone's configuration, such as ``hidden_size``."""
        if name.startswith("_") or name == "backbone_config":
            raise AttributeError(name)
        return getattr(self.backbone_config, name)

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """Return the decoder's own configuration, for tools that look for the text model."""
        return self.backbone_config.get_text_config(*args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, the backbone's flat among them."""
        own: dict[str, Any] = super().to_dict()
        del own["backbone_config"]
        return {**self.backbone_config.to_dict(), **own}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return all settings, since defaults may differ between versions."""
        return self.to_dict()


def caps_attention(config: Any) -> bool:
    """Return true if attention scores are capped (Gemma 2).

    SDPA silently omits the cap in some versions of transformers.
    """
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


@dataclass
class RewardModelOutput(ModelOutput):  # type: ignore[misc]
    """Scores of n conversations, with their parts.

    Attributes:
        rewards: Predicted unit rewards of the k objectives. Shape (n, k).
        hidden_state: Last hidden state at the last token. Shape (n, hidden).
        prompt_embedding: Last hidden state where the last user turn closes. Shape (n, hidden).
        gating_output: The gate's coefficients. Shape (n, k).
        score: ``sum(gating_output * (rewards @ reward_transform_matrix))``. Shape (n,).
        logits: The score as a column. Shape (n, 1).
    """

    rewards: Tensor | None = None
    hidden_state: Tensor | None = None
    prompt_embedding: Tensor | None = None
    gating_output: Tensor | None = None
    score: Tensor | None = None
    logits: Tensor | None = None


class Gate(nn.Module):
    """ReLU network with a softmax output: prompt feature in, k coefficients out."""

    def __init__(self, config: ArmoRMConfig, features: int) -> None:
        super().__init__()
        hidden = [config.gating_hidden_dim] * config.gating_n_hidden
        widths = [features, *hidden, config.num_objectives]
        self.layers = nn.ModuleList(
            nn.Linear(width, following) for width, following in itertools.pairwise(widths)
        )
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = config.gating_temperature

    def forward(self, prompts: Tensor) -> Tensor:
        """Return the coefficients. Shape (n, k)."""
        hidden = prompts
        for layer in self.layers[:-1]:
            hidden = functional.relu(layer(hidden))
        logits = self.layers[-1](hidden).float() / self.temperature
        return functional.softmax(logits, dim=-1) * self.logit_scale.float()


class RewardModelWithGating(PreTrainedModel):  # type: ignore[misc]
    """A decoder with a reward per objective and a gate that weighs them by the prompt."""

    config_class = ArmoRMConfig
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True
    _supports_attention_backend = True
    _keep_in_fp32_modules = ["regression_layer", "gating", "reward_transform_matrix"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = _keep_in_fp32_modules

    def __init__(self, config: ArmoRMConfig) -> None:
        super().__init__(config)
        attention = config._attn_implementation
        if attention == "sdpa" and caps_attention(config.backbone_config):
            attention = "eager"
        backbone = AutoModel.from_config(config.backbone_config, attn_implementation=attention)
        k, features = config.num_objectives, config.backbone_config.get_text_config().hidden_size
        self.base_model_prefix = backbone.base_model_prefix
        self._no_split_modules = backbone._no_split_modules
        setattr(self, self.base_model_prefix, backbone)
        self.regression_layer = nn.Linear(features, k, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(k), requires_grad=False)
        self.gating = Gate(config, features)
        self.post_init()

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *args: Any, **options: Any) -> Any:
        """Load as transformers does, except that a missing or misshapen tensor is an error."""
        wanted = options.pop("output_loading_info", False)
        model, report = super().from_pretrained(
            name_or_path, *args, output_loading_info=True, **options
        )
        problems = [
            f"{what} tensors: {sorted(map(str, report[key]))}"
            for what, key in (("missing", "missing_keys"), ("misshapen", "mismatched_keys"))
            if report.get(key)
        ]
        if problems:
            raise ValueError(
                f"{name_or_path} is not a complete gated reward model ({'; '.join(problems)}). "
                "Missing weights are never initialised at random."
            )
        return (model, report) if wanted else model

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Score conversations, each rendered by the chat template and ending with the response.

        Args:
            input_ids: Token ids, shape (n, tokens), padded on either side; or what
                ``tokenizer.apply_chat_template`` returns, with or without a mask.
            attention_mask: 1 at real tokens, shape (n, tokens). It may be omitted where padding
                cannot be mistaken for text.

        Raises:
            ValueError: A row holds no response, or padding cannot be distinguished from text.
        """
        if isinstance(input_ids, Mapping):  # as the tokenizer of transformers 5 returns it
            attention_mask = input_ids.get("attention_mask", attention_mask)
            input_ids = input_ids["input_ids"]
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("The gate is found in token ids: pass input_ids, not inputs_embeds.")
        real = self._real_tokens(input_ids, attention_mask)
        ids, lengths = self._packed(input_ids, self._with_one_bos(input_ids, real))
        lengths = self._without_trailing(ids, lengths)
        boundary = self._boundaries(ids, lengths)
        places = torch.arange(ids.shape[1], device=ids.device)
        backbone = getattr(self, self.base_model_prefix)
        states = backbone(
            input_ids=ids,
            attention_mask=(places < lengths[:, None]).long(),
            use_cache=False,
            return_dict=True,
        ).last_hidden_state
        rows = torch.arange(len(ids), device=states.device)
        hidden_state = states[rows, lengths.to(states.device) - 1]
        prompt_embedding = states[rows, boundary.to(states.device)]
        output = self._combine(hidden_state, prompt_embedding)
        if return_dict is False:
            return output.to_tuple()
        return output

    def _combine(self, hidden_state: Tensor, prompt_embedding: Tensor) -> RewardModelOutput:
        dtype = self.regression_layer.weight.dtype  # float32, unless the whole model was cast
        rewards = self.regression_layer(hidden_state.to(dtype)).float()
        gating = self.gating(prompt_embedding.to(dtype))
        transform = self.reward_transform_matrix.to(rewards.device).float()
        score = torch.sum(gating.to(rewards.device) * (rewards @ transform), dim=-1)
        return RewardModelOutput(
            rewards=rewards,
            hidden_state=hidden_state,
            prompt_embedding=prompt_embedding,
            gating_output=gating,
            score=score,
            logits=score[:, None],
        )

    def _real_tokens(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return a mask of the ids that are text. Shape (n, tokens), boolean."""
        if mask is not None:
            given: Tensor = mask.to(ids.device).bool()
            return given
        pad, eos = self.config.pad_token_id, self.config.eos_token_id
        ends = eos if isinstance(eos, (list, tuple)) else [eos]
        text = {*self.config.boundary_pattern, *ends, self.config.bos_token_id}
        if pad is None or (pad in text and len(ids) == 1):
            return torch.ones_like(ids, dtype=torch.bool)
        if pad in text:
            raise ValueError(
                f"The padding token {pad} also occurs in conversations, so padding cannot be "
                "told from text. Pass attention_mask."
            )
        # Padding stands at the ends only.
        real = ids != pad
        inside: Tensor = (real.cumsum(dim=1) > 0) & (real.flip(1).cumsum(dim=1).flip(1) > 0)
        return inside

    def _with_one_bos(self, ids: Tensor, real: Tensor) -> Tensor:
        """Remove the BOS that a tokenizer puts before the one of the chat template."""
        if ids.shape[1] < 2 or self.config.bos_token_id is None:
            return real
        rows = torch.arange(len(ids), device=ids.device)
        first = real.long().argmax(dim=1).clamp(max=ids.shape[1] - 2)
        bos = (ids == self.config.bos_token_id) & real
        kept = real.clone()
        kept[rows, first] &= ~(bos[rows, first] & bos[rows, first + 1])
        return kept

    @staticmethod
    def _packed(ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids with all padding moved to the right, where a causal model cannot see it."""
        lengths = real.sum(dim=1)
        order = (~real).long().argsort(dim=1, stable=True)
        packed = ids.gather(1, order)[:, : int(lengths.max())]
        return packed, lengths

    def _without_trailing(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return lengths up to the end of the response's turn. Shape (n,)."""
        trailing = torch.tensor(self.config.boundary_trailing, device=ids.device)
        width = len(trailing)
        if not 0 < width <= ids.shape[1]:
            return lengths
        places = (lengths[:, None] - width).clamp(min=0) + torch.arange(width, device=ids.device)
        ends = (ids.gather(1, places) == trailing).all(dim=1) & (lengths >= width)
        return lengths - width * ends

    def _boundaries(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the index of the token that closes each row's last user turn. Shape (n,).

        The twin of ``BoundaryRule.find`` in ``armorm.conversations.boundary``.
        """
        config = self.config
        pattern = torch.tensor(config.boundary_pattern, device=ids.device)
        width = len(pattern)
        places = torch.arange(ids.shape[1], device=ids.device)
        first, last, lead = torch.zeros_like(lengths), lengths, config.boundary_lead + 1
        if config.boundary_answer_end is not None and config.boundary_answer_end >= 0:
            ends = (ids == config.boundary_answer_end) & (places < lengths[:, None])
            last = torch.where(ends, places, -1).max(dim=1).values
            ends &= places != last[:, None]
            first = torch.where(ends, places, -1).max(dim=1).values + 1
            lead = 0
        found = torch.zeros_like(ids, dtype=torch.bool)
        if 0 < width <= ids.shape[1]:
            found[:, : ids.shape[1] - width + 1] = (ids.unfold(1, width, 1) == pattern).all(dim=-1)
        found &= (places >= first[:, None]) & (places + width <= last[:, None])
        start: Tensor = torch.where(found, places, -1).max(dim=1).values
        # A last occurrence at the very end is a prompt that still waits for its response.
        unusable = (start < 0) | (start + width + lead > last)
        if unusable.any():
            raise ValueError(
                f"Rows {unusable.nonzero().flatten().tolist()}: no end of a user turn followed "
                f"by a response (pattern {config.boundary_pattern}). Were they cut, "
                "rendered by another model's template, or with add_generation_prompt?"
            )
        ambiguous = found.sum(dim=1) > 1
        if config.boundary_answer_end is not None and ambiguous.any():
            raise ValueError(
                f"Rows {ambiguous.nonzero().flatten().tolist()}: a text of the last turn spells "
                "the template's own markers, so it cannot be told where the response begins. "
                "Remove or rewrite them."
            )
        boundary: Tensor = start + config.boundary_offset
        return boundary


# So that AutoTokenizer and AutoConfig know the folder once the model has been loaded.
AutoConfig.register(ArmoRMConfig.model_type, ArmoRMConfig, exist_ok=True)
