"""Cache of prompts that were computed lately, for responses that arrive one at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from armorm.features.shared_attention import KeptTrunk

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CachedPrompt:
    """Computed prompt, up to and including its boundary.

    Attributes:
        state: State that the gate reads at the boundary. Shape (hidden,).
        trunk: Keys and values of its tokens, by layer.
    """

    state: Float[Tensor, " hidden"]
    trunk: KeptTrunk

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        tensors = [self.state, *(one for pair in self.trunk.layers.values() for one in pair)]
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Counts of a prompt cache since it was made.

    Attributes:
        hits: Prompts that were found.
        misses: Prompts that had to be computed.
        evictions: Prompts that were dropped for others.
        prompts: Prompts that are in the cache now.
        bytes: Memory that they take now.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    prompts: int = 0
    bytes: int = 0


class PromptCache:
    """Computed prompts, of which those that were not used for longest are dropped first.

    It belongs to one backbone, which guards it by the lock of its runner.

    Args:
        max_bytes: Most memory that the prompts may take, on the device of the model.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._prompts: OrderedDict[tuple[int, ...], CachedPrompt] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0

    @property
    def counts(self) -> CacheCounts:
        """Counts so far. They may be read by any thread."""
        return CacheCounts(
            self._hits, self._misses, self._evictions, len(self._prompts), self._bytes
        )

    def __contains__(self, ids: object) -> bool:
        return ids in self._prompts

    def find(self, ids: tuple[int, ...]) -> CachedPrompt | None:
        """Return the prompt with these ids, if it is there, and mark it as used."""
        found = self._prompts.get(ids)
        if found is None:
            self._misses += 1
            return None
        self._hits += 1
        self._prompts.move_to_end(ids)
        return found

    def put(self, ids: tuple[int, ...], prompt: CachedPrompt) -> None:
        """Add a prompt; drop others until it fits.

        A prompt that alone exceeds the bound is not added. Neither is one whose state is not
        finite: such a result may be a fault of the device, and is computed again.
        """
        if prompt.bytes > self.max_bytes or not bool(prompt.state.isfinite().all()):
            return
        self._drop(ids)
        self._prompts[ids] = prompt
        self._bytes += prompt.bytes
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._prompts)))
            self._evictions += 1

    def clear(self) -> None:
        """Drop all prompts."""
        self._prompts.clear()
        self._bytes = 0

    def _drop(self, ids: tuple[int, ...]) -> None:
        dropped = self._prompts.pop(ids, None)
        if dropped is not None:
            self._bytes -= dropped.bytes
