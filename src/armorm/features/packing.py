"""Plans of forward passes: prompts computed once, packed to a token budget without padding.

The conversations of one prompt form a *tree*: its trunk is their common beginning, its branches are
the rest of each.  A *pack* is one sequence of whole trees, or of a part of one tree that is larger
than the budget; the trunk of a divided tree is computed with its first part, and its keys and
values are kept for the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from armorm.conversations import EncodedPrompt


@dataclass(frozen=True, slots=True)
class PromptTree:
    """A prompt and the different conversations that continue it.

    Attributes:
        prompt: Number of the prompt.
        boundary: Index of the prompt boundary, inside the trunk.
        trunk: Ids at the beginning of all conversations: the prompt, and what follows it in all.
        branches: Ids that each conversation adds to the trunk; only the first may be empty.
        responses: For each branch, the number of the response that ends with it.
    """

    prompt: int
    boundary: int
    trunk: list[int]
    branches: list[list[int]]
    responses: list[int]

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.trunk) + sum(map(len, self.branches))

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return len(self.trunk) + max(map(len, self.branches))

    def without(self, done: set[int]) -> PromptTree | None:
        """Return the tree without the branches of some responses; ``None`` if none is left."""
        left = [i for i, number in enumerate(self.responses) if number not in done]
        if not left:
            return None
        branches, responses = [self.branches[i] for i in left], [self.responses[i] for i in left]
        return PromptTree(self.prompt, self.boundary, self.trunk, branches, responses)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One conversation of a tree.

    Attributes:
        tree: Tree of the conversation.
        branch: Number of its branch.
    """

    tree: PromptTree
    branch: int

    @property
    def ids(self) -> list[int]:
        """Return the token ids of the whole conversation."""
        return self.tree.trunk + self.tree.branches[self.branch]

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.tree.trunk) + len(self.tree.branches[self.branch])

    @property
    def response(self) -> int:
        """Number of the response that ends with the branch."""
        return self.tree.responses[self.branch]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive branches of a tree in one pack.

    Attributes:
        tree: Tree of the branches.
        branches: Numbers of the branches.
        begins: True if the trunk is in this pack; otherwise it was kept from an earlier one.
        goes_on: True if later packs hold more branches, so that the trunk must be kept.
    """

    tree: PromptTree
    branches: range
    begins: bool
    goes_on: bool

    @property
    def leaves(self) -> list[Leaf]:
        """Return the conversations of this part."""
        return [Leaf(self.tree, i) for i in self.branches]

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        trunk = len(self.tree.trunk) if self.begins else 0
        return trunk + sum(len(self.tree.branches[i]) for i in self.branches)


Pack = list[Piece]


def grow_trees(
    prompts: Sequence[EncodedPrompt], *, divided_at_boundary: bool = False
) -> list[PromptTree]:
    """Make one tree per prompt; responses are numbered through all prompts, in order.

    Args:
        prompts: Prompts whose conversations differ (:func:`~armorm.features.merge_prompts`).
        divided_at_boundary: End each trunk with the prompt, whatever its responses have in common,
            so that it is the same for others.
    """
    trees = []
    first = 0
    for number, prompt in enumerate(prompts):
        trunk = (
            list(prompt.prompt_ids) if divided_at_boundary else _common_beginning(prompt.sequences)
        )
        # A conversation that ends with the trunk, an empty branch, comes first: its last state is a
        # state of the trunk, which is only in the first pack of a divided tree.
        ordered = sorted(
            enumerate(prompt.sequences, start=first), key=lambda pair: len(pair[1]) > len(trunk)
        )
        first += len(prompt.sequences)
        branches = [ids[len(trunk) :] for _, ids in ordered]
        responses = [response for response, _ in ordered]
        trees.append(PromptTree(number, prompt.boundary, trunk, branches, responses))
    return trees


def _common_beginning(sequences: Sequence[list[int]]) -> list[int]:
    """Return the common beginning of all sequences.

    In lexicographic order, the first and the last sequence differ the earliest.
    """
    first, last = min(sequences), max(sequences)
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return [one for one, _ in pairs]


def plan_packs(
    trees: Sequence[PromptTree], max_tokens: int, kept: Collection[int] = ()
) -> list[Pack]:
    """Pack trees in their order, dividing those that are larger than a pack.

    Args:
        trees: Result of :func:`grow_trees`.
        max_tokens: Maximum number of tokens of a pack.  A single conversation that is longer gets a
            pack of its own.
        kept: Prompts whose trunk need not be computed.

    Returns:
        Packs of pieces.  The pieces of a divided tree are in consecutive packs.
    """
    packs: list[Pack] = []
    filled = max_tokens  # no pack is open
    for tree in trees:
        begins = tree.prompt not in kept
        whole = Piece(tree, range(len(tree.branches)), begins=begins, goes_on=False)
        if filled + whole.tokens <= max_tokens:
            packs[-1].append(whole)
            filled += whole.tokens
        else:
            pieces = _divide(tree, max_tokens, begins=begins)
            packs.extend([piece] for piece in pieces)
            filled = pieces[-1].tokens
    return packs


def _divide(tree: PromptTree, max_tokens: int, *, begins: bool) -> list[Piece]:
    """Divide a tree between branches; only the first piece carries the trunk's tokens, if any."""
    starts = [0]
    filled = len(tree.trunk) if begins else 0
    for i, branch in enumerate(tree.branches):
        if i > starts[-1] and filled + len(branch) > max_tokens:
            starts.append(i)
            filled = 0
        filled += len(branch)
    ends = [*starts[1:], len(tree.branches)]
    return [
        Piece(
            tree,
            range(start, end),
            begins=begins and start == 0,
            goes_on=end < len(tree.branches),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def plan_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group sequences of similar length into right-padded batches of bounded size.

    Args:
        lengths: Tokens of each sequence.
        max_tokens: Maximum number of tokens of a batch, padding included.  A single longer
            sequence gets a batch of its own.

    Returns:
        Lists of positions in ``lengths``, longest sequences first: if memory does not suffice, it
        fails in the first batch.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
        batches[-1].append(position)
    return batches
