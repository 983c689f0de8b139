"""Runs encoded prompts through a model: prompts shared where that is exact, else in batches."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import EncodedPrompt
from armorm.errors import ArmormError, RecipeError
from armorm.features import shared_attention
from armorm.features.layers import find_layers
from armorm.features.lengths import PositionScaling, attention_span, separate_lengths
from armorm.features.merging import merge_prompts
from armorm.features.packing import (
    Leaf,
    Pack,
    Piece,
    PromptTree,
    grow_trees,
    plan_batches,
    plan_packs,
)
from armorm.features.prompt_cache import CachedPrompt, PromptCache
from armorm.features.shared_attention import CannotShareError, KeptTrunk, PackLayout, TreeSpans

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CountTokens = Callable[[int], None]

ReadAlso = Callable[[Sequence[int], int], Sequence[int]]
"""Function from the ids of a conversation and its boundary to positions of tokens behind the
boundary, ascending, whose states are read beside the last one's."""

# Largest accepted difference between packed states and a model's own, divided by the largest
# state: a few roundings of each format.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}

# Some quantised layers (LLM.int8) round by what else is in the batch, so a model's own states
# differ between batches.  Packs may differ by NOISE_FACTOR times as much, up to MOST_NOISE.
NOISE_FACTOR = 4
MOST_NOISE = 5e-2

PROBE_TOKENS = 71
"""Tokens of each part of the probe's prompt.  Kernels compute blocks of 32 or 64 rows on CPUs, and
a fault may be in the second block only."""


class OutOfMemoryError(ArmormError, MemoryError):
    """Memory that does not suffice for a single conversation."""


@dataclass(frozen=True, slots=True)
class BackboneFeatures:
    """Hidden states after the final norm, read at two tokens of each conversation.

    Attributes:
        prompts: States at the prompt boundary, one for each prompt. Shape (prompts, hidden).
        responses: States at the last token, prompt by prompt. Shape (responses, hidden).
        computed_tokens: Tokens that went through the model, if that is known; fewer than the
            conversations have if these share their prompt.
        response_tokens: The part of them that each conversation is the reason for: a shared
            prompt's tokens count for the first that was computed with it.
        tokens: For each response, the states at the other tokens that were asked for, each of shape
            (tokens, hidden); empty if none were.
    """

    prompts: Float[Tensor, "prompts hidden"]
    responses: Float[Tensor, "responses hidden"]
    computed_tokens: int | None = None
    response_tokens: tuple[int, ...] | None = None
    tokens: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class _Step:
    """One forward pass.

    Attributes:
        conversations: Number of different conversations that it finishes.
        tokens: Tokens of these conversations, each counted whole.
        computed_tokens: Tokens that go through the model, without padding.
        run: Computes and stores the states.
    """

    conversations: int
    tokens: int
    computed_tokens: int
    run: Callable[[], None]


Plan = Callable[[list[PromptTree], "_States"], Iterator[_Step]]


class ModelRunner:
    """A decoder that computes prompts with their responses, within a budget of tokens.

    Several threads may use one runner; their calls run one after the other.

    Args:
        model: The decoder, in evaluation mode.
        max_tokens: Maximum number of tokens in one forward pass.
        share_prompts: Compute each prompt once for all its responses, if that is exact.

    Attributes:
        max_tokens: Halved, for good, when memory runs out.
        cache: Prompts of earlier calls, for a server; set by its owner. ``None`` keeps none.
        separate: Compute each prompt and each response in a forward pass of its own: then no state
            depends on what else is computed or in the cache, not even by rounding, if
            conversations are also given one by one.
    """

    cache: PromptCache | None = None
    separate: bool = False

    def __init__(self, model: PreTrainedModel, max_tokens: int, *, share_prompts: bool) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self._probed = not share_prompts
        self._obstacle = None if share_prompts else "share_prompts is off"
        # A forward pass with shared prompts changes the model's attention for its duration.
        self._lock = threading.RLock()

    @property
    def device(self) -> torch.device:
        """Return the device of the inputs."""
        device: torch.device = self.model.device
        return device

    @property
    def hidden_size(self) -> int:
        """Return the length of a hidden state."""
        size: int = self.model.config.get_text_config().hidden_size
        return size

    @property
    def state_size(self) -> int:
        """Numbers that are read at a token."""
        return self.hidden_size

    @property
    def sharing_obstacle(self) -> str | None:
        """Reason why responses do not share their prompt's computation; ``None`` if they do.

        Found by running a few made-up tokens both ways, on first use.
        """
        with self._lock:
            if not self._probed:
                self._obstacle = self._find_obstacle()
                self._probed = True
                if self._obstacle is not None:
                    warnings.warn(
                        f"{self.model.config.model_type}: responses do not share their prompt's "
                        f"computation, since {self._obstacle}. They run in length-sorted batches.",
                        stacklevel=3,
                    )
            return self._obstacle

    @torch.inference_mode()
    def run(
        self,
        prompts: Sequence[EncodedPrompt],
        advance: CountTokens | None = None,
        read_also: ReadAlso | None = None,
    ) -> BackboneFeatures:
        """Return hidden states of encoded prompts and their responses, in float32 on the CPU.

        Args:
            prompts: Prompts with their responses.
            advance: Called after each step with the tokens of the conversations it finished, each
                distinct conversation counted once.
            read_also: Other tokens whose states are returned, from the same forward passes.

        Raises:
            OutOfMemoryError: A single conversation does not fit.
        """
        merged = merge_prompts(prompts)
        scaling = PositionScaling.of(self.model)
        separated = separate_lengths(merged.prompts, scaling)
        # Tokens behind the boundary are in the branches then, each response's in its own.
        at_boundary = self.separate or self.cache is not None or read_also is not None
        trees = grow_trees(separated.groups, divided_at_boundary=at_boundary)
        with self._lock:
            states = self._states_for(trees, read_also)
            # Beyond the limit of a scaling, positions differ: such conversations run by themselves.
            limit = None if scaling is None else scaling.limit
            within = [tree for tree in trees if limit is None or tree.longest <= limit]
            beyond = [tree for tree in trees if limit is not None and tree.longest > limit]
            self._run_group(within, states, advance)
            if scaling is not None and scaling.by_length:
                scaling.forget_lengths(self.model)
                alone = partial(self._batches, max_tokens=1)
                self._run_all(alone, beyond, states, advance, scaling)
            else:
                self._run_group(beyond, states, advance)
        response_tokens = [states.response_tokens[row] for row in separated.response_rows]
        prompt_states = states.prompts.cpu()[separated.prompt_rows]
        response_states = states.responses.cpu()[separated.response_rows]
        tokens = [states.tokens[row] for row in separated.response_rows] if read_also else []
        return BackboneFeatures(
            prompt_states[merged.prompt_numbers],
            response_states[merged.response_numbers],
            states.computed_tokens,
            tuple(response_tokens[row] for row in merged.response_numbers),
            tuple(tokens[row] for row in merged.response_numbers) if read_also else (),
        )

    def _run_group(
        self, trees: list[PromptTree], states: _States, advance: CountTokens | None
    ) -> None:
        """Run conversations with the same positions, packed if their attention can be shared."""
        if trees and self.sharing_obstacle is None:
            # Within a sliding window all attention is full; longer conversations need its mask.
            span = attention_span(self.model)
            packed = [tree for tree in trees if span is None or tree.longest <= span]
            plan = self._separate_packs if self.separate else self._packs
            self._run_all(partial(plan, cache=self.cache), packed, states, advance)
            trees = [tree for tree in trees if span is not None and tree.longest > span]
        alone = 1 if self.separate else None
        self._run_all(partial(self._batches, max_tokens=alone), trees, states, advance)

    def _run_all(
        self,
        plan: Plan,
        trees: list[PromptTree],
        states: _States,
        advance: CountTokens | None = None,
        scaling: PositionScaling | None = None,
    ) -> None:
        """Run trees in the steps of a plan.

        If memory runs out, plan the conversations that are left again with half the tokens: what
        is stored stays, and a divided tree starts again with its trunk, since the keys and values
        that were kept are gone with the failed step.
        """
        cache = self.cache
        while trees:
            for step in plan(trees, states):
                try:
                    step.run()
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if cache is not None:  # the prompts of earlier calls are the first to go
                        cache.clear()
                        cache = None
                    else:
                        self._halve(step)
                    break
                if scaling is not None:
                    scaling.forget_lengths(self.model)
                states.computed_tokens += step.computed_tokens
                if advance is not None:
                    advance(step.tokens)
            trees = [left for tree in trees if (left := tree.without(states.done)) is not None]

    def _halve(self, step: _Step) -> None:
        if step.conversations <= 1:
            tokens = max(
                step.tokens, step.computed_tokens
            )  # a prompt by itself ends no conversation
            raise OutOfMemoryError(
                f"A conversation of {tokens} tokens does not fit into the memory of "
                f"{self.device}. Lower max_length, or choose dtype bfloat16 or another device."
            ) from None
        self.max_tokens = max(1, self.max_tokens // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"Out of memory on {self.device}: continuing with {self.max_tokens} tokens at once. "
            "Set batch_tokens to start there.",
            stacklevel=2,
        )

    def _packs(
        self, trees: list[PromptTree], states: _States, cache: PromptCache | None = None
    ) -> Iterator[_Step]:
        """Plan packs.

        Args:
            trees: Prompts with their conversations; divided at the boundary if there is a cache.
            states: Storage of the states.
            cache: Prompts that need not be computed again.
        """
        found = _find(trees, states, cache)
        kept: dict[int, KeptTrunk] = {}
        for pack in plan_packs(trees, self.max_tokens, found):
            # The trunk of a divided tree is kept for its next pack, and that of any for the cache.
            kept = {
                piece.tree.prompt: found.get(number) or kept.get(number) or KeptTrunk()
                for piece in pack
                if cache is not None or piece.goes_on or not piece.begins
                for number in [piece.tree.prompt]
            }
            yield self._pack_step(pack, kept, states, cache)

    def _separate_packs(
        self, trees: list[PromptTree], states: _States, cache: PromptCache | None
    ) -> Iterator[_Step]:
        """Plan a pack for each trunk and one for each branch, the same ones whatever is cached."""
        for tree in trees:
            found = _find([tree], states, cache)
            kept = {tree.prompt: found.get(tree.prompt) or KeptTrunk()}
            # An empty branch ends with the trunk, where its state is read.
            first = 0 if tree.branches[0] else 1
            if not found:
                trunk = Piece(tree, range(first), begins=True, goes_on=True)
                yield self._pack_step([trunk], kept, states, cache)
            for i in range(first, len(tree.branches)):
                branch = Piece(tree, range(i, i + 1), begins=False, goes_on=True)
                yield self._pack_step([branch], kept, states, None)

    def _pack_step(
        self,
        pack: Pack,
        kept: Mapping[int, KeptTrunk],
        states: _States,
        cache: PromptCache | None,
    ) -> _Step:
        return _Step(
            sum(len(piece.branches) for piece in pack),
            _tokens_of(leaf for piece in pack for leaf in piece.leaves),
            sum(piece.tokens for piece in pack),
            partial(self._run_pack, pack, kept, states, cache),
        )

    def _run_pack(
        self,
        pack: Pack,
        kept: Mapping[int, KeptTrunk],
        states: _States,
        cache: PromptCache | None,
    ) -> None:
        placed = _place(pack, kept)
        leaves = [leaf for piece in pack for leaf in piece.leaves]
        rows = placed.boundaries(pack) + states.rows_of(leaves, placed.ends)
        hidden = self._packed_states(placed.ids, placed.positions, placed.spans, rows)
        states.read_pack(pack, placed, hidden)
        if cache is not None:
            for piece in pack:
                if piece.begins:
                    number = piece.tree.prompt
                    state = states.prompts[number].clone()
                    cache.put(tuple(piece.tree.trunk), CachedPrompt(state, kept[number]))

    def _packed_states(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        spans: Sequence[TreeSpans],
        rows: Sequence[int],
    ) -> Float[Tensor, "tokens state"]:
        with _shared_attention(self.model), _last_mlp_at(self.model, rows):
            return self._hidden_states(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.tensor([positions], device=self.device),
                pack_layout=PackLayout(spans),
            )[0]

    def run_spans(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        spans: Sequence[TreeSpans],
        rows: Sequence[int],
    ) -> Float[Tensor, "rows state"]:
        """Return the states at some tokens of one pack, in float32 on the CPU.

        Only where :attr:`sharing_obstacle` is ``None``, within the model's attention span and the
        limit of its positions.

        Args:
            ids: Token ids.
            positions: Position of each in its conversation.
            spans: Trees of the tokens.
            rows: Tokens whose states are returned.
        """
        with self._lock:
            return self._packed_states(ids, list(positions), spans, rows)[list(rows)].float().cpu()

    def _batches(
        self, trees: list[PromptTree], states: _States, max_tokens: int | None = None
    ) -> Iterator[_Step]:
        """Plan right-padded batches without a mask.

        Attention is causal, so no token attends to the padding behind it, and a state does not
        depend on what else is in the batch.
        """
        leaves = [Leaf(tree, i) for tree in trees for i in range(len(tree.branches))]
        lengths = [leaf.tokens for leaf in leaves]
        for batch in plan_batches(lengths, max_tokens or self.max_tokens):
            members = [leaves[i] for i in batch]
            yield _Step(
                len(members),
                _tokens_of(members),
                sum(leaf.tokens for leaf in members),
                partial(self._run_batch, members, states),
            )

    def _run_batch(self, members: list[Leaf], states: _States) -> None:
        width = max(leaf.tokens for leaf in members)
        padded = [leaf.ids + [0] * (width - leaf.tokens) for leaf in members]
        starts = [i * width for i in range(len(members))]
        rows = [start + leaf.tree.boundary for start, leaf in zip(starts, members, strict=True)]
        ends = [start + leaf.tokens for start, leaf in zip(starts, members, strict=True)]
        with _last_mlp_at(self.model, rows + states.rows_of(members, ends)):
            hidden = self._hidden_states(input_ids=torch.tensor(padded, device=self.device))
        states.read_batch(members, hidden)

    def _hidden_states(self, **inputs: Any) -> Float[Tensor, "sequences tokens state"]:
        """Run the model; return the states that rows are read from."""
        hidden: Tensor = self.model(**inputs, use_cache=False).last_hidden_state
        return hidden

    def _states_for(
        self, trees: Sequence[PromptTree], read_also: ReadAlso | None = None
    ) -> _States:
        responses = sum(len(tree.responses) for tree in trees)
        return _States(
            torch.empty(len(trees), self.state_size, device=self.device),
            torch.empty(responses, self.state_size, device=self.device),
            read_also,
        )

    @torch.inference_mode()
    def _find_obstacle(self) -> str | None:
        """Compare packed states of made-up tokens with the model's own.

        The model's own are computed in one batch and one by one: their difference is how much the
        model itself depends on what runs together.
        """
        if self.device.type not in ("cpu", "cuda"):
            return f"there is no kernel for {self.device.type}"
        trees = grow_trees([_made_up_prompt(self.model)])
        expected, alone, packed = (self._states_for(trees) for _ in range(3))
        self._run_all(self._batches, trees, expected)
        self._run_all(partial(self._batches, max_tokens=1), trees, alone)
        noise = NOISE_FACTOR * expected.difference(alone)
        try:
            self._run_all(self._packs, trees, packed)
        except CannotShareError as error:
            return str(error)
        except (TypeError, ValueError, RuntimeError, AttributeError, ImportError) as error:
            return f"its attention cannot be replaced ({error})"
        tolerance = max(TOLERANCE[self.model.dtype], min(noise, MOST_NOISE))
        return None if expected.difference(packed) <= tolerance else "its states would differ"


class _States:
    """States read from packs and batches so far."""

    def __init__(
        self,
        prompts: Float[Tensor, "prompts hidden"],
        responses: Float[Tensor, "responses hidden"],
        read_also: ReadAlso | None = None,
    ) -> None:
        self.prompts = prompts
        self.responses = responses
        self.tokens: dict[int, Tensor] = {}
        self._read_also = read_also
        self.done: set[int] = set()
        self.computed_tokens = 0
        self.response_tokens = [0] * len(responses)

    def read_pack(
        self, pack: Pack, placed: _PlacedPack, hidden: Float[Tensor, "tokens hidden"]
    ) -> None:
        begun = [piece.tree.prompt for piece in pack if piece.begins]
        self.prompts[begun] = hidden[placed.boundaries(pack)].to(self.prompts)
        self._put([leaf for piece in pack for leaf in piece.leaves], placed.ends, hidden)
        for piece in pack:
            for i in piece.branches:
                response = piece.tree.responses[i]
                self.response_tokens[response] += len(piece.tree.branches[i])
            if piece.begins:
                self.response_tokens[piece.tree.responses[0]] += len(piece.tree.trunk)

    def read_batch(
        self, leaves: Sequence[Leaf], hidden: Float[Tensor, "sequences tokens hidden"]
    ) -> None:
        width = hidden.shape[1]
        for row, leaf in enumerate(leaves):
            self.prompts[leaf.tree.prompt] = hidden[row, leaf.tree.boundary]
        ends = [row * width + leaf.tokens for row, leaf in enumerate(leaves)]
        self._put(leaves, ends, hidden.flatten(0, 1))
        for leaf in leaves:
            self.response_tokens[leaf.response] += leaf.tokens

    def rows_of(self, leaves: Sequence[Leaf], ends: Sequence[int]) -> list[int]:
        """Return the rows of hidden states that are read for conversations that end there."""
        rows = [end - 1 for end in ends]
        for leaf, end in zip(leaves, ends, strict=True):
            rows.extend(self._also(leaf, end))
        return rows

    def _also(self, leaf: Leaf, end: int) -> list[int]:
        if self._read_also is None:
            return []
        first = end - leaf.tokens  # a row that is there only if the trunk is in the same pack
        return [first + place for place in self._read_also(leaf.ids, leaf.tree.boundary)]

    def _put(
        self, leaves: Sequence[Leaf], ends: Sequence[int], hidden: Float[Tensor, "tokens hidden"]
    ) -> None:
        """Store the state of the token before each end, and the others that are read."""
        numbers = [leaf.response for leaf in leaves]
        self.responses[numbers] = hidden[[end - 1 for end in ends]].to(self.responses)
        if self._read_also is not None:
            for number, leaf, end in zip(numbers, leaves, ends, strict=True):
                self.tokens[number] = hidden[self._also(leaf, end)].float().cpu()
        self.done.update(numbers)

    def difference(self, other: _States) -> float:
        """Return the largest absolute difference, divided by the largest absolute state."""
        mine, theirs = (torch.cat([one.prompts, one.responses]) for one in (self, other))
        return float((mine - theirs).abs().max() / mine.abs().max())


@dataclass(frozen=True, slots=True)
class _PlacedPack:
    """Tokens of a pack.

    Attributes:
        ids: Token ids.
        positions: Position of each token in its conversation: every branch continues the trunk.
        spans: Span of each tree.
        ends: End of each conversation, piece by piece.
    """

    ids: list[int]
    positions: list[int]
    spans: list[TreeSpans]
    ends: list[int]

    def boundaries(self, pack: Pack) -> list[int]:
        """Return the position of the prompt boundary of each tree that begins in the pack."""
        placed = zip(pack, self.spans, strict=True)
        return [span.trunk[0] + piece.tree.boundary for piece, span in placed if piece.begins]


def _find(
    trees: Sequence[PromptTree], states: _States, cache: PromptCache | None
) -> dict[int, KeptTrunk]:
    """Return the trunks that are in the cache, by the number of the prompt; store their states.

    An empty branch needs the state at the end of the trunk, so its trunk is computed.
    """
    found = {}
    for tree in trees:
        if cache is not None and all(tree.branches):
            cached = cache.find(tuple(tree.trunk))
            if cached is not None:
                states.prompts[tree.prompt] = cached.state
                found[tree.prompt] = cached.trunk
    return found


def _place(pack: Pack, kept: Mapping[int, KeptTrunk]) -> _PlacedPack:
    placed = _PlacedPack([], [], [], [])
    for piece in pack:
        trunk = piece.tree.trunk
        begin = len(placed.ids)
        if piece.begins:
            placed.ids.extend(trunk)
            placed.positions.extend(range(len(trunk)))
        starts = [len(placed.ids)]
        for i in piece.branches:
            branch = piece.tree.branches[i]
            placed.ids.extend(branch)
            placed.positions.extend(range(len(trunk), len(trunk) + len(branch)))
            starts.append(len(placed.ids))
        placed.ends.extend(starts[1:])
        branches = tuple(span for span in itertools.pairwise(starts) if span[1] > span[0])
        placed.spans.append(TreeSpans((begin, starts[0]), branches, kept.get(piece.tree.prompt)))
    return placed


@contextmanager
def _shared_attention(model: PreTrainedModel) -> Iterator[None]:
    """Replace the model's attention by :func:`shared_attention` while the block runs."""
    own = model.config._attn_implementation
    shared_attention.register()
    model.set_attn_implementation(shared_attention.NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@contextmanager
def _last_mlp_at(model: PreTrainedModel, rows: Sequence[int]) -> Iterator[None]:
    """Have the MLP of the last layer compute only some rows of its input while the block runs.

    A state after the last layer depends on that layer's MLP at its own token alone.

    Args:
        model: The decoder. A compiled one is left alone: a changed function is compiled again.
        rows: Positions of the tokens that are read, in the sequences one after the other.
    """
    mlp = getattr(_last_layer(model), "mlp", None)
    if mlp is None or getattr(model, "_compiled_call_impl", None) is not None:
        yield
        return
    own = mlp.forward

    def at_rows(states: Tensor, *others: Any, **options: Any) -> Any:
        if others or options:  # more rows of the same tokens, such as those to add to
            return own(states, *others, **options)
        read = torch.tensor(rows, device=states.device)
        found = own(states.flatten(0, -2)[None, read])
        if not isinstance(found, Tensor):  # a tuple with a router's choices
            return own(states)
        whole = torch.zeros_like(states)
        whole.view(-1, whole.shape[-1])[read] = found[0]
        return whole

    changed = "forward" in vars(mlp)
    mlp.forward = at_rows
    try:
        yield
    finally:
        if changed:
            mlp.forward = own
        else:
            del mlp.forward


def _last_layer(model: PreTrainedModel) -> torch.nn.Module | None:
    """Return the last decoder layer, if the model has a list of as many as it says."""
    try:
        name, parent, _ = find_layers(model)
    except (RecipeError, AttributeError):
        return None
    last: torch.nn.Module = getattr(parent, name)[-1]
    return last


def _tokens_of(leaves: Iterable[Leaf]) -> int:
    return sum(leaf.tokens for leaf in leaves)


def _made_up_prompt(model: PreTrainedModel) -> EncodedPrompt:
    """Return a prompt with three responses, one of them a beginning of another.

    It is as long as the model reads with full attention and unscaled positions, up to some two
    hundred tokens.
    """
    config = model.config.get_text_config()
    scaling = PositionScaling.of(model)
    limits = (
        attention_span(model),
        getattr(config, "max_position_embeddings", None),
        None if scaling is None else scaling.limit,
    )
    part = min((limit // 3 for limit in limits if limit), default=PROBE_TOKENS)
    part = max(2, min(part, PROBE_TOKENS))
    ids = [(7 * i * i + 3 * i + 1) % int(config.vocab_size) for i in range(3 * part)]
    trunk, one, other = ids[:part], ids[part : 2 * part], ids[2 * part :]
    return EncodedPrompt((trunk + one, trunk + other, trunk + one[: part // 2]), part // 2)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return True if a forward pass failed because memory ran out."""
    # On a CPU torch has no error class of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
