"""Attention in which all responses to a prompt share it, exact, as one packed sequence.

A token of a branch attends to the whole trunk and, causally, to its own branch.  The two parts
are computed apart and merged by their log-sum-exps, so no mask is made and nothing is computed
that a mask would throw away::

    trunk                causal
    branches -> trunk    full, all branches of a tree at once
    branch               causal

The function is registered with transformers under :data:`NAME` and gets the layout of the pack
as the keyword argument ``pack_layout`` of the model's forward.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

NAME = "armorm_shared_prompts"

Span = tuple[int, int]
KeysAndValues = tuple[Tensor, Tensor]


class CannotShareError(Exception):
    """This model's attention is not what :func:`shared_attention` computes."""


@dataclass(slots=True)
class KeptTrunk:
    """Keys and values of a trunk whose tree goes on in the next pack, by layer."""

    layers: dict[int, KeysAndValues] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TreeSpans:
    """Where a tree stands in the tokens of a pack.

    Attributes:
        trunk: First token and end of the trunk; empty where it was kept.
        branches: The same for each branch that adds tokens, one after the other behind the trunk.
        kept: Where the trunk's keys and values are put, or found if it is not in this pack.
    """

    trunk: Span
    branches: tuple[Span, ...]
    kept: KeptTrunk | None

    @property
    def has_trunk(self) -> bool:
        return self.trunk[1] > self.trunk[0]

    @property
    def all_branches(self) -> Span:
        return (self.branches[0][0], self.branches[-1][1])


class Segments:
    """Spans of tokens that are attended to apart from each other, as kernels want them.

    Args:
        spans: First token and end of each.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        self.lengths = [end - start for start, end in spans]
        # Layers of a model may be on several devices.
        self._rows: dict[torch.device, Tensor] = {}
        self._offsets: dict[torch.device, Tensor] = {}

    def rows(self, device: torch.device) -> Int[Tensor, " tokens"]:
        """Positions of their tokens in the pack."""
        if device not in self._rows:
            ranges = itertools.chain.from_iterable(range(*span) for span in self.spans)
            self._rows[device] = torch.tensor(list(ranges), device=device)
        return self._rows[device]

    def offsets(self, device: torch.device) -> Int[Tensor, " ends"]:
        """Where each begins when they stand one after the other, and the end of the last."""
        if device not in self._offsets:
            ends = list(itertools.accumulate(self.lengths, initial=0))
            self._offsets[device] = torch.tensor(ends, dtype=torch.int32, device=device)
        return self._offsets[device]


class PackLayout:
    """The trees of one pack.

    Args:
        trees: Their spans, in the order of the tokens.

    Attributes:
        branching: The trees that have branches here.
        trunks: Trunks that are in this pack.
        groups: All branches of each tree as one segment: they look at the same trunk.
        branches: Each branch alone.
    """

    def __init__(self, trees: Sequence[TreeSpans]) -> None:
        self.trees = trees
        self.branching = [tree for tree in trees if tree.branches]
        self.trunks = Segments([tree.trunk for tree in trees if tree.has_trunk])
        self.groups = Segments([tree.all_branches for tree in self.branching])
        self.branches = Segments([span for tree in trees for span in tree.branches])

    def trunk_keys(self, layer: int, key: Tensor, value: Tensor) -> list[KeysAndValues]:
        """Keys and values of the trunk of each branching tree; keeps what later packs need."""
        found = []
        for tree in self.trees:
            if tree.has_trunk:
                mine = (key[slice(*tree.trunk)], value[slice(*tree.trunk)])
                if tree.kept is not None:
                    tree.kept.layers[layer] = (mine[0].clone(), mine[1].clone())
            else:
                assert tree.kept is not None
                mine = tree.kept.layers[layer]
            if tree.branches:
                found.append(mine)
        return found


@cache
def register() -> None:
    """Make the function known to transformers."""
    from transformers import AttentionInterface

    # Compiled, its loops over trees would be compiled anew for every pack.
    uncompiled = torch.compiler.disable(shared_attention)  # type: ignore[no-untyped-call]
    AttentionInterface.register(NAME, uncompiled)


def shared_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    pack_layout: PackLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,  # noqa: ARG001
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "one tokens heads width"], None]:
    """What transformers calls in each layer.

    Args:
        module: The attention layer.
        query, key, value: Shape (1, heads or key heads, tokens, width), positions applied.
        attention_mask: Unused: the layout says who sees whom.
        pack_layout: Where the trees of the pack stand.
        scaling: Factor on the products; default width ** -0.5.
        dropout: 0 in evaluation.
        sliding_window: Must reach over every conversation; whoever packs sees to that.
        softcap, s_aux: Forms of attention that are not computed here.

    Raises:
        CannotShareError: the layer asks for something else than plain causal attention.
    """
    if (
        softcap is not None
        or s_aux is not None
        or dropout
        or not getattr(module, "is_causal", True)
    ):
        raise CannotShareError("its attention is not plain causal softmax attention")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    # Token-major: a segment is a slice of the first axis.
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    kernel = _on_gpu if query.is_cuda else _on_cpu
    return kernel(query, key, value, pack_layout, module.layer_idx, scale)[None], None


def _on_cpu(
    query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, layer: int, scale: float
) -> Float[Tensor, "tokens heads width"]:
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for start, end in layout.trunks.spans:
        span = slice(start, end)
        out[span] = _attend(query[span], key[span], value[span], scale, causal=True)[0]
    trunks = layout.trunk_keys(layer, key, value)
    for tree, (trunk_key, trunk_value) in zip(layout.branching, trunks, strict=True):
        group = slice(*tree.all_branches)
        seen, weight = _attend(query[group], trunk_key, trunk_value, scale, causal=False)
        for start, end in tree.branches:
            span, part = slice(start, end), slice(start - group.start, end - group.start)
            own, own_weight = _attend(query[span], key[span], value[span], scale, causal=True)
            out[span] = _merge(seen[part], weight[part], own, own_weight)
    return out


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool
) -> tuple[Float[Tensor, "tokens heads width"], Float[Tensor, "tokens heads"]]:
    """Attention of one segment, and the log-sum-exp of each row of products."""
    shared = query.shape[1] // key.shape[1]
    heads = [
        tensor.transpose(0, 1)[None]
        for tensor in (query, _repeat_heads(key, shared), _repeat_heads(value, shared))
    ]
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *heads, 0.0, causal, scale=scale
    )
    return out[0].transpose(0, 1), log_sum[0].transpose(0, 1)


def _repeat_heads(tensor: Tensor, times: int) -> Tensor:
    return tensor if times == 1 else tensor.repeat_interleave(times, dim=1)


def _merge(a: Tensor, log_a: Tensor, b: Tensor, log_b: Tensor) -> Tensor:
    """Two attentions over disjoint keys as one: their means, weighted by the sums of exponents."""
    share = torch.sigmoid(log_a.float() - log_b.float())[..., None]
    return torch.lerp(b.float(), a.float(), share).to(a.dtype)


def _on_gpu(
    query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, layer: int, scale: float
) -> Float[Tensor, "tokens heads width"]:
    """The same in three variable-length flash attentions over all trees of the pack."""
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    trunks = layout.trunk_keys(layer, key, value)
    if layout.trunks.spans:
        rows = layout.trunks.rows(query.device)
        out[rows] = _attend_varlen(
            (query[rows], key[rows], value[rows]), layout.trunks, layout.trunks, scale, causal=True
        )[0]
    if layout.branches.spans:
        rows = layout.branches.rows(query.device)
        trunk_key, trunk_value = (torch.cat(parts) for parts in zip(*trunks, strict=True))
        ends = itertools.accumulate((len(one) for one, _ in trunks), initial=0)
        seen_by = Segments(list(itertools.pairwise(ends)))
        seen, weight = _attend_varlen(
            (query[rows], trunk_key, trunk_value), layout.groups, seen_by, scale, causal=False
        )
        own, own_weight = _attend_varlen(
            (query[rows], key[rows], value[rows]),
            layout.branches,
            layout.branches,
            scale,
            causal=True,
        )
        out[rows] = _merge(seen, weight, own, own_weight)
    return out


def _attend_varlen(
    tensors: tuple[Tensor, Tensor, Tensor],
    queries: Segments,
    keys: Segments,
    scale: float,
    *,
    causal: bool,
) -> tuple[Float[Tensor, "tokens heads width"], Float[Tensor, "tokens heads"]]:
    """Flash attention of each segment of queries to the segment of keys of the same number."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    query, key, value = tensors
    out, log_sum = varlen_attn(
        query,
        key,
        value,
        queries.offsets(query.device),
        keys.offsets(query.device),
        max(queries.lengths),
        max(keys.lengths),
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out, log_sum.transpose(0, 1)
