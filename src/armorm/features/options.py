"""Options of the backbone and of feature stores: the recipe's sections are these classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from armorm.conversations import OverlongPolicy
from armorm.settings import Options

Engine = Literal["transformers", "vllm"]
BackboneDtype = Literal["auto", "stored", "float32", "bfloat16", "float16"]
StoredDtype = Literal["float32", "bfloat16", "float16"]


class BackboneOptions(Options):
    """Options of loading and running a frozen language model.

    Example:
        >>> from armorm import Backbone
        >>> from armorm.features import BackboneOptions
        >>> options = BackboneOptions(device="cpu", max_length=128)
        >>> Backbone.from_pretrained("builtin", options).encoder.max_length
        128
        >>> Backbone.from_pretrained("builtin", device="cpu", max_length=64).encoder.max_length
        64
    """

    revision: str | None = None
    """Revision on the hub: a branch, a tag or a commit."""
    dtype: BackboneDtype = "auto"
    """Number format of the weights: float32, bfloat16 or float16; auto is float32 on a CPU and
    bfloat16 elsewhere; stored is the format that the weights are saved in."""
    layer: int | None = Field(default=None, ge=1)
    """Number of layers to load: features are the states after this layer and the model's final
    norm. Default: all layers. `armorm layers` compares them."""
    device: str | None = None
    """Device: cpu, cuda, cuda:1 or mps. Default: a GPU if there is one."""
    max_length: int | None = Field(default=None, ge=8)
    """Maximum number of tokens of a conversation. Default: the maximum of the model."""
    overlong: OverlongPolicy = "skip"
    """Treatment of longer conversations: error stops, skip counts them, drop_oldest_turns removes
    whole turns from the front. Text is never cut."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of tokens in one forward pass; halved when memory runs out. Default: chosen
    by the device."""
    share_prompts: bool = True
    """Compute each prompt once for all its responses, if that is exact for the model."""
    attn_implementation: str | None = None
    """Attention of transformers, used for what runs in length-sorted batches."""
    compile_model: bool = False
    """Let torch.compile fuse the layers around the attention. The first conversations then take a
    minute more."""
    trust_remote_code: bool = False
    """Run Python code from the model folder."""
    engine: Engine = "transformers"
    """Library that runs the model: transformers, or vllm, which is installed separately."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of AutoModel.from_pretrained, such as device_map and quantization_config, or of
    vllm.LLM, such as tensor_parallel_size."""

    @classmethod
    def of(cls, options: BackboneOptions | None, fields: Mapping[str, Any]) -> BackboneOptions:
        """Return the options with some fields replaced.

        Args:
            options: Default: all defaults.
            fields: Values by name; a name that is no field becomes an engine option.

        Raises:
            RecipeError: A value is invalid.
        """
        known = {name: value for name, value in fields.items() if name in cls.model_fields}
        other = {name: value for name, value in fields.items() if name not in cls.model_fields}
        given = options or BackboneOptions()
        if other:
            engine_options = known.get("engine_options", given.engine_options)
            known["engine_options"] = {**engine_options, **other}
        return type(given).validated({**dict(given), **known}) if known else given


class BackboneSource(BackboneOptions):
    """A recipe's section ``backbone``: the frozen model, and how it is loaded and run."""

    model: str = "builtin"
    """Folder, hub id, GGUF file (folder/file.gguf, repository:file.gguf), or builtin for the small
    model that is part of the package."""


class StoreOptions(Options):
    """Options of a feature store.

    Example:
        >>> from armorm.features import StoreOptions
        >>> StoreOptions(dtype="bfloat16").shard_responses
        2048
    """

    dtype: StoredDtype = "float32"
    """Number format on disk: float32, bfloat16 or float16."""
    shard_responses: int = Field(default=2048, ge=1)
    """Responses in one shard, the unit that is resumed after an interruption."""

    @classmethod
    def of(cls, options: StoreOptions | None, fields: Mapping[str, Any]) -> StoreOptions:
        """Return the options with some fields replaced.

        Raises:
            RecipeError: A name or value is invalid.
        """
        return cls.validated({**dict(options or cls()), **fields})
