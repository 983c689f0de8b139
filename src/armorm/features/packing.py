"""Which tokens run together: prompts computed once, packed to a token budget without padding.

The responses to one prompt form a *tree*: its trunk is what all its conversations begin with, its
branches are what each adds.  A *pack* is one sequence of whole trees, or of a part of one that is
larger than the budget; the trunk of a divided tree is computed with its first part and kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from armorm.conversations import EncodedPrompt


@dataclass(frozen=True, slots=True)
class PromptTree:
    """A prompt and the different conversations that go on from it.

    Attributes:
        prompt: Number of the prompt.
        boundary: Index of the prompt boundary, inside the trunk.
        trunk: Ids that all conversations begin with: the prompt, and what follows it alike.
        branches: Ids that each different conversation adds; only the first may be empty.
        responses: For each branch, the number of the response that ends with it.
    """

    prompt: int
    boundary: int
    trunk: list[int]
    branches: list[list[int]]
    responses: list[int]

    @property
    def tokens(self) -> int:
        return len(self.trunk) + sum(map(len, self.branches))

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return len(self.trunk) + max(map(len, self.branches))

    def without(self, done: set[int]) -> PromptTree | None:
        """The tree without the branches whose responses are done; ``None`` if none is left."""
        left = [i for i, number in enumerate(self.responses) if number not in done]
        if not left:
            return None
        branches, responses = [self.branches[i] for i in left], [self.responses[i] for i in left]
        return PromptTree(self.prompt, self.boundary, self.trunk, branches, responses)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One conversation of a tree.

    Attributes:
        tree: The tree.
        branch: Number of its branch.
    """

    tree: PromptTree
    branch: int

    @property
    def ids(self) -> list[int]:
        return self.tree.trunk + self.tree.branches[self.branch]

    @property
    def tokens(self) -> int:
        return len(self.tree.trunk) + len(self.tree.branches[self.branch])

    @property
    def response(self) -> int:
        """Number of the response that ends here."""
        return self.tree.responses[self.branch]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive branches of a tree that are in one pack.

    Attributes:
        tree: The tree.
        branches: Which of its branches.
        begins: The trunk is in this pack; otherwise it was kept from an earlier one.
        goes_on: Later packs hold more branches, so the trunk must be kept.
    """

    tree: PromptTree
    branches: range
    begins: bool
    goes_on: bool

    @property
    def leaves(self) -> list[Leaf]:
        return [Leaf(self.tree, i) for i in self.branches]

    @property
    def tokens(self) -> int:
        trunk = len(self.tree.trunk) if self.begins else 0
        return trunk + sum(len(self.tree.branches[i]) for i in self.branches)


Pack = list[Piece]


def grow_trees(prompts: Sequence[EncodedPrompt]) -> list[PromptTree]:
    """Make one tree per prompt; responses are numbered through all prompts, in order.

    Args:
        prompts: Prompts whose conversations differ (:func:`~armorm.features.merge_prompts`).
    """
    trees = []
    first = 0
    for number, prompt in enumerate(prompts):
        trunk = _common_beginning(prompt.sequences)
        # The conversation that ends with the trunk comes first: the trunk is in the first pack.
        ordered = sorted(
            enumerate(prompt.sequences, start=first), key=lambda pair: len(pair[1]) > len(trunk)
        )
        first += len(prompt.sequences)
        branches = [ids[len(trunk) :] for _, ids in ordered]
        responses = [response for response, _ in ordered]
        trees.append(PromptTree(number, prompt.boundary, trunk, branches, responses))
    return trees


def _common_beginning(sequences: Sequence[list[int]]) -> list[int]:
    """What all sequences begin with: what the first and the last in their order do."""
    first, last = min(sequences), max(sequences)
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return [one for one, _ in pairs]


def plan_packs(trees: Sequence[PromptTree], max_tokens: int) -> list[Pack]:
    """Pack trees in their order, dividing those that are larger than a pack.

    Args:
        trees: What :func:`grow_trees` returns.
        max_tokens: Most tokens of a pack.  A single conversation that is longer gets a pack of
            its own.

    Returns:
        Packs of pieces.  The pieces of a divided tree are in consecutive packs.
    """
    packs: list[Pack] = []
    filled = max_tokens
    for tree in trees:
        if filled + tree.tokens <= max_tokens:
            packs[-1].append(Piece(tree, range(len(tree.branches)), begins=True, goes_on=False))
            filled += tree.tokens
        else:
            pieces = _divide(tree, max_tokens)
            packs.extend([piece] for piece in pieces)
            filled = pieces[-1].tokens
    return packs


def _divide(tree: PromptTree, max_tokens: int) -> list[Piece]:
    starts = [0]
    filled = len(tree.trunk)
    for i, branch in enumerate(tree.branches):
        if i > starts[-1] and filled + len(branch) > max_tokens:
            starts.append(i)
            filled = 0
        filled += len(branch)
    ends = [*starts[1:], len(tree.branches)]
    return [
        Piece(tree, range(start, end), begins=start == 0, goes_on=end < len(tree.branches))
        for start, end in zip(starts, ends, strict=True)
    ]


def plan_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group sequences of like length into right-padded batches of bounded size.

    Args:
        lengths: Tokens of each sequence.
        max_tokens: Most tokens of a batch, padding counted.  A single longer sequence gets a
            batch of its own.

    Returns:
        Lists of positions in ``lengths``, longest sequences first, so that the batch that needs
        most memory comes first.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
        batches[-1].append(position)
    return batches
