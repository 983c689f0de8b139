"""The two models of each family of decoders, built when vLLM imports them by name."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from vllm import ModelRegistry
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.adapters import as_embedding_model

from armorm.hub import HEAD_PREFIXES, OTHER_HEADS
from armorm.hub.modeling_armorm import ArmoRMConfig, Gate
from armorm.vllm_plugin import REWARD_SUFFIX, STATES_SUFFIX
from armorm.vllm_plugin.bodies import body_of, family_of
from armorm.vllm_plugin.pooling import BoundaryPooler

Weights = Iterable[tuple[str, Tensor]]

GATE_FIELDS = ("num_objectives", "gating_temperature", "gating_hidden_dim", "gating_n_hidden")


def __getattr__(name: str) -> Any:
    make = {REWARD_SUFFIX: reward_model, STATES_SUFFIX: states_model}
    for suffix, model in make.items():
        if name.endswith(suffix):
            return model(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def reward_model(name: str) -> type:
    """Create the class of a vLLM decoder with rewards and gate, both in float32."""
    body: Any = _body(name)

    class RewardModel(body):  # type: ignore[misc]
        def _init_pooler(self, *_: Any, **__: Any) -> BoundaryPooler:
            config = gate_config(self.whole_config.model_config.hf_config)
            k, features = config.num_objectives, self.whole_config.model_config.get_hidden_size()
            self.regression_layer = nn.Linear(features, k, bias=False, dtype=torch.float32)
            self.reward_transform_matrix = nn.Parameter(
                torch.eye(k, dtype=torch.float32), requires_grad=False
            )
            self.gating = Gate(config, features).float()
            return BoundaryPooler("classify", self._classify)

        @torch.inference_mode()
        def _classify(
            self, boundaries: Float[Tensor, "n hidden"], last: Float[Tensor, "n hidden"]
        ) -> Float[Tensor, "n answers"]:
            rewards = self.regression_layer(last.float())
            gating = self.gating(boundaries.float())
            transformed = rewards @ self.reward_transform_matrix
            score = torch.sum(gating * transformed, dim=-1, keepdim=True)
            # The score last: what reads one number of an answer (verl) reads the last one.
            return torch.cat([rewards, gating, score], dim=-1)

        def load_weights(self, weights: Weights) -> set[str]:
            heads: dict[str, Tensor] = {}
            loaded: set[str] = super().load_weights(_without_heads(weights, heads))
            parameters = dict(self.named_parameters())
            for head, tensor in heads.items():
                default_weight_loader(parameters[head], tensor)
            return loaded | set(heads)

    return _named(RewardModel, name)


@functools.cache
def states_model(name: str) -> type:
    """Create the class of a vLLM decoder that answers the states at boundary and last token."""
    body: Any = _body(name)

    class StatesModel(body):  # type: ignore[misc]
        def _init_pooler(self, *_: Any, **__: Any) -> BoundaryPooler:
            return BoundaryPooler("token_embed", _both_states)

        def load_weights(self, weights: Weights) -> set[str]:
            loaded: set[str] = super().load_weights(_without_heads(weights, {}, OTHER_HEADS))
            return loaded

    return _named(StatesModel, name)


def _both_states(
    boundaries: Float[Tensor, "n hidden"], last: Float[Tensor, "n hidden"]
) -> Float[Tensor, "n 2 hidden"]:
    return torch.stack([boundaries, last], dim=1).float()


def gate_config(config: Any) -> ArmoRMConfig:
    """Return the gate's settings; the released layout relies on the defaults of some."""
    if isinstance(config, ArmoRMConfig):
        return config
    given = {name: getattr(config, name, None) for name in GATE_FIELDS}
    return ArmoRMConfig(
        backbone_model_type=config.model_type,
        **{name: value for name, value in given.items() if value is not None},
    )


def _body(name: str) -> type:
    """Build the vLLM model of the family, without its head, from the decoder's own config."""
    original = ModelRegistry.models[body_of(family_of(name))].load_model_cls()
    pooling: Any = as_embedding_model(original)

    class Body(pooling):  # type: ignore[misc]
        def __init__(self, *, vllm_config: Any, prefix: str = "", **options: Any) -> None:
            self.whole_config = vllm_config
            super().__init__(vllm_config=_of_decoder(vllm_config, name), prefix=prefix, **options)

    return Body


def _of_decoder(vllm_config: Any, name: str) -> Any:
    config = vllm_config.model_config.hf_config
    if not isinstance(config, ArmoRMConfig):
        return vllm_config
    return vllm_config.with_hf_config(config.backbone_config, [body_of(family_of(name))])


def _without_heads(
    weights: Weights, heads: dict[str, Tensor], dropped: tuple[str, ...] = ()
) -> Weights:
    """Yield the body's tensors, and collect those of the heads in ``heads``."""
    for name, tensor in weights:
        if name.startswith(HEAD_PREFIXES):
            heads[name] = tensor.clone()
        elif not name.startswith(dropped):
            yield name, tensor


def _named(model: type, name: str) -> type:
    model.__name__ = model.__qualname__ = name
    model.__module__ = __name__
    return model
