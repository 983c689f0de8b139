"""Exact attention over a packed sequence in which all responses share their prompt.

A token of a branch attends to the whole trunk and, causally, to its own branch.  Both parts are
computed separately and merged by their log-sum-exps.  So there is no mask, and no product is
computed that a mask would discard::

    trunk                causal
    branches -> trunk    full, all branches of a tree at once
    branch               causal

The function is registered with transformers under :data:`NAME` and receives the layout of the pack
as the keyword argument ``pack_layout`` of the model's forward pass.
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
    """An attention that differs from the one :func:`shared_attention` computes."""


@dataclass(slots=True)
class KeptTrunk:
    """Keys and values of a trunk whose tree continues in the next pack, by layer."""

    layers: dict[int, KeysAndValues] = field(default_factory=dict)

    def beginning(self, tokens: int) -> KeptTrunk:
        """Return the keys and values of the first tokens, without a copy."""
        first = {i: (key[:tokens], value[:tokens]) for i, (key, value) in self.layers.items()}
        return KeptTrunk(first)


@dataclass(frozen=True, slots=True)
class TreeSpans:
    """Positions of a tree in the tokens of a pack.

    Attributes:
        trunk: Start and end of the trunk; empty if it is in an earlier pack.
        branches: Start and end of each branch that adds tokens, in order, behind the trunk.
        kept: Storage for the trunk's keys and values if the tree is divided.
    """

    trunk: Span
    branches: tuple[Span, ...]
    kept: KeptTrunk | None

    @property
    def has_trunk(self) -> bool:
        """Return true if the tree has a trunk in this pack."""
        return self.trunk[1] > self.trunk[0]

    @property
    def all_branches(self) -> Span:
        """Return the span from the first branch to the last."""
        return (self.branches[0][0], self.branches[-1][1])


class Segments:
    """Spans of tokens that attend independently of each other, in the form that kernels take.

    Args:
        spans: Start and end of each.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        self.lengths = [end - start for start, end in spans]
        # Layers of a model may be on several devices.
        self._rows: dict[torch.device, Tensor] = {}
        self._offsets: dict[torch.device, Tensor] = {}

    def rows(self, device: torch.device) -> Int[Tensor, " tokens"]:
        """Return the positions of their tokens in the pack."""
        if device not in self._rows:
            ranges = itertools.chain.from_iterable(range(*span) for span in self.spans)
            self._rows[device] = torch.tensor(list(ranges), device=device)
        return self._rows[device]

    def offsets(self, device: torch.device) -> Int[Tensor, " ends"]:
        """Return the start of each in their concatenation, and the end of the last."""
        if device not in self._offsets:
            ends = list(itertools.accumulate(self.lengths, initial=0))
            self._offsets[device] = torch.tensor(ends, dtype=torch.int32, device=device)
        return self._offsets[device]


class PackLayout:
    """Layout of the trees of one pack.

    Args:
        trees: Spans of the trees, in the order of the tokens.

    Attributes:
        branching: Trees that have branches in this pack.
        trunks: Trunks in this pack.
        groups: All branches of each tree as one segment, since they attend to the same trunk.
        branches: Each branch as a segment.
    """

    def __init__(self, trees: Sequence[TreeSpans]) -> None:
        self.trees = trees
        self.branching = [tree for tree in trees if tree.branches]
        self.trunks = Segments([tree.trunk for tree in trees if tree.has_trunk])
        self.groups = Segments([tree.all_branches for tree in self.branching])
        self.branches = Segments([span for tree in trees for span in tree.branches])

    def trunk_keys(self, layer: int, key: Tensor, value: Tensor) -> list[KeysAndValues]:
        """Return the keys and values of the trunk of each branching tree.

        Those that later packs need are kept.
        """
        found = []
        for tree in self.trees:
            if tree.has_trunk:
                mine = (key[slice(*tree.trunk)], value[slice(*tree.trunk)])
                if tree.kept is not None:
                    # A copy: views would keep the tensors of the whole pack in memory.
                    tree.kept.layers[layer] = (mine[0].clone(), mine[1].clone())
            else:
                assert tree.kept is not None
                mine = tree.kept.layers[layer]
            if tree.branches:
                found.append(mine)
        return found


@cache
def register() -> None:
    """Register the function with transformers."""
    from transformers import AttentionInterface

    # If compiled, its loops over trees would be compiled again for every pack.
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
    """Compute the attention of one layer over a pack; transformers calls this function.

    Args:
        module: Attention layer.
        query, key, value: Shape (1, heads or key heads, tokens, width), with positions applied.
        attention_mask: Ignored in favour of the layout.
        pack_layout: Positions of the trees of the pack.
        scaling: Factor on the products; default width ** -0.5.
        dropout: 0 in evaluation.
        sliding_window: Ignored: the runner packs only conversations within the window.
        softcap, s_aux: Variants of attention that are refused.

    Raises:
        CannotShareError: The layer asks for something else than plain causal attention.
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
    """Compute a kernel call for each trunk, group and branch.

    One call for all trees of a pack, padded to the longest, takes two to three times as long where
    their lengths differ, and no less where they are equal.
    """
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    trunks = layout.trunk_keys(layer, key, value)
    # Once for the pack: most keys are needed twice, by the trunk itself and by its branches.
    key, value = _repeat_heads(key, query), _repeat_heads(value, query)
    for start, end in layout.trunks.spans:
        span = slice(start, end)
        out[span] = _attend(query[span], key[span], value[span], scale, causal=True)[0]
    for tree, kept in zip(layout.branching, trunks, strict=True):
        trunk, group = slice(*tree.trunk), slice(*tree.all_branches)
        trunk_key, trunk_value = (
            (key[trunk], value[trunk])
            if tree.has_trunk
            else (_repeat_heads(one, query) for one in kept)
        )
        seen, weight = _attend(query[group], trunk_key, trunk_value, scale, causal=False)
        own_weight = torch.empty_like(weight)
        for start, end in tree.branches:
            span, part = slice(start, end), slice(start - group.start, end - group.start)
            out[span], own_weight[part] = _attend(
                query[span], key[span], value[span], scale, causal=True
            )
        out[group] = _merge(seen, weight, out[group], own_weight)
    return out


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool
) -> tuple[Float[Tensor, "tokens heads width"], Float[Tensor, "tokens heads"]]:
    """Return the attention of one segment, and the log-sum-exp of each row of products."""
    heads = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *heads, 0.0, causal, scale=scale
    )
    return out[0].transpose(0, 1), log_sum[0].transpose(0, 1)


def _repeat_heads(tensor: Tensor, query: Tensor) -> Tensor:
    """Repeat key heads, so that each query head has one."""
    times = query.shape[1] // tensor.shape[1]
    return tensor if times == 1 else tensor.repeat_interleave(times, dim=1)


def _merge(a: Tensor, log_a: Tensor, b: Tensor, log_b: Tensor) -> Tensor:
    """Return the attention over the union of two disjoint sets of keys.

    With log-sum-exps ``a`` and ``b``, the softmax over both sets weighs the first result by
    exp(a) / (exp(a) + exp(b)) = sigmoid(a - b).
    """
    share = torch.sigmoid(log_a.float() - log_b.float())[..., None]
    return torch.lerp(b.float(), a.float(), share).to(a.dtype)


def _on_gpu(
    query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, layer: int, scale: float
) -> Float[Tensor, "tokens heads width"]:
    """Compute the same in three variable-length flash attentions over all trees of the pack.

    A call per tree would leave a GPU idle.
    """
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
    """Return the attention of each segment of queries to the segment of keys of the same number."""
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
