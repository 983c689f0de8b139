"""Reference of a model: a sample of held-out prompts, which its answers are compared with.

A contribution c_i r_i depends on where the scale of objective i has its zero.  Compared with the
mean rewards of the reference, ``c_i (r_i - mean_i)`` does not; these sum to the score less the mean
score under the same coefficients.  The gate of a prompt is compared with its average over the
nearest prompts of the reference: those whose prompt features, less their mean, point the same way
(cosine).

It holds numbers and no text, in a folder of its own inside the model folder, as the uncertainty
does, and is read on first use.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.nn.functional import normalize

from armorm.errors import CheckpointError, StoreError
from armorm.files import write_atomically

PLACE = Path("reference") / "prompts.safetensors"

MOST_PROMPTS = 512
"""Prompts of the sample."""

NEIGHBOURS = 16
"""Nearest prompts over which the gate is averaged."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Prompts that were held out of the training, with the gate's output and their responses.

    Attributes:
        center: Mean of the prompt features. Shape (hidden,).
        directions: Prompt features less the mean, at length 1, in float16. Shape (prompts, hidden).
        gating: Output of the gate. Shape (prompts, k).
        rewards: Unit rewards of their responses. Shape (responses, k).
        owners: Position of each response's prompt. Shape (responses,).
    """

    center: Float[Tensor, " hidden"]
    directions: Float[Tensor, "prompts hidden"]
    gating: Float[Tensor, "prompts k"]
    rewards: Float[Tensor, "responses k"]
    owners: Int[Tensor, " responses"]

    @classmethod
    def of(
        cls,
        prompts: Float[Tensor, "prompts hidden"],
        gating: Float[Tensor, "prompts k"],
        rewards: Float[Tensor, "responses k"],
        owners: Int[Tensor, " responses"],
    ) -> Reference:
        """Return the reference of prompts with these features and responses."""
        center = prompts.float().mean(dim=0)
        return cls(
            center,
            normalize(prompts.float() - center, dim=1).half(),
            gating.float(),
            rewards.float(),
            owners,
        )

    @property
    def mean_rewards(self) -> Float[Tensor, " k"]:
        """Mean unit reward of each objective, in float64."""
        mean: Tensor = self.rewards.double().mean(dim=0)
        return mean

    @property
    def mean_gating(self) -> Float[Tensor, " k"]:
        """Mean output of the gate, in float64."""
        mean: Tensor = self.gating.double().mean(dim=0)
        return mean

    def neighbours(self, prompts: Float[Tensor, "n hidden"]) -> Float[Tensor, "n k"]:
        """Return the average output of the gate over the prompts nearest to each of these.

        Args:
            prompts: Prompt features.
        """
        directions = normalize(prompts.cpu().float() - self.center, dim=1)
        nearest = (directions @ self.directions.float().T).topk(self.compared).indices
        averages: Tensor = self.gating[nearest].mean(dim=1)
        return averages

    @property
    def compared(self) -> int:
        """Number of nearest prompts that an average is over."""
        return min(NEIGHBOURS, len(self.gating))

    def to_bytes(self) -> bytes:
        """Return a safetensors file with the attributes by name."""
        content: bytes = save_safetensors(
            {field.name: getattr(self, field.name).contiguous() for field in fields(self)}
        )
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> Reference:
        """Return the reference that :meth:`to_bytes` wrote.

        Raises:
            StoreError: It is something else, or damaged.
        """
        try:
            tensors = load_safetensors(content)
            found = cls(**tensors)
            prompts, hidden = found.directions.shape
            responses, k = found.rewards.shape
            sound = (
                found.center.shape == (hidden,)
                and found.gating.shape == (prompts, k)
                and found.owners.shape == (responses,)
                and min(prompts, responses) > 0
                and 0 <= int(found.owners.min()) <= int(found.owners.max()) < prompts
                and all(bool(tensor.isfinite().all()) for tensor in tensors.values())
            )
        except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
            raise StoreError(f"The reference cannot be read: {error}.") from error
        if not sound:
            raise StoreError("The reference cannot be read: its tables do not fit together.")
        return found


class ModelReference:
    """Reference of a model, read from the model folder on first use.

    Args:
        source: The reference, or the file that holds it.
    """

    def __init__(self, source: Reference | Path) -> None:
        self._source = source

    @classmethod
    def in_folder(cls, folder: Path) -> ModelReference | None:
        """Return the reference that a model folder holds, not yet read, or ``None``."""
        return cls(folder / PLACE) if (folder / PLACE).is_file() else None

    @cached_property
    def sample(self) -> Reference:
        """The prompts and their responses.

        Raises:
            StoreError: The file is damaged.
        """
        if isinstance(self._source, Reference):
            return self._source
        try:
            return Reference.from_bytes(self._source.read_bytes())
        except StoreError as error:
            raise StoreError(
                f"{self._source}: {error} Export the model again, or delete the file to explain "
                "without a reference."
            ) from error

    def check_fits(self, objectives: int, hidden: int) -> None:
        """Raise CheckpointError unless it is of a model with these sizes."""
        found = (self.sample.rewards.shape[1], len(self.sample.center))
        if found != (objectives, hidden):
            raise CheckpointError(
                f"{PLACE} is of a model with {found[0]} objectives and {found[1]} features, not "
                f"{objectives} and {hidden}. Run `armorm fit-gate` again, or delete the file to "
                "explain without a reference."
            )

    def save(self, folder: Path) -> None:
        """Write it into a model folder."""
        write_atomically(folder / PLACE, self.sample.to_bytes())
