"""Training loop of stage 2: reproducible, resumable, and one gate evaluation per pair."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from armorm.errors import ArmormError, StoreError
from armorm.files import write_atomically
from armorm.heads.gating import Gate, GatingNetwork, RewardPairs, bradley_terry_loss, margins
from armorm.heads.options import GateOptions, Precision
from armorm.progress import progress_bar


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The state of training after some steps.

    Attributes:
        step: Gradient steps done.
        loss: Mean training loss since the last point.
        beta: Scale of the Bradley–Terry model.
        validation_loss: On the validation pairs; ``None`` without them.
        validation_accuracy: Share of validation pairs ranked rightly.
    """

    step: int
    loss: float
    beta: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class GateTraining:
    """A trained gate and the record of its training.

    Attributes:
        gate: The network, in evaluation mode, on the CPU; the best on the validation pairs where
            there are any, else the last.
        beta: The learned scale: P(a over b) = sigmoid(beta (R_a - R_b)).
        step: The step that the gate is from.
        curve: Points of the training curve.
    """

    gate: Gate
    beta: float
    step: int
    curve: list[CurvePoint] = field(default_factory=list)


def fit_gate(
    pairs: RewardPairs,
    options: GateOptions | None = None,
    *,
    gate: Callable[[int, int], Gate] | None = None,
    seed: int = 0,
    device: str = "cpu",
    validation: RewardPairs | None = None,
    checkpoint: Path | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
    show_progress: bool = False,
    description: str = "gate",
) -> GateTraining:
    """Train a gate on preference pairs.

    AdamW with cosine decay to zero.  Each pass over the pairs is a new permutation, drawn from
    the seed and the number of the pass.  beta is optimised as log beta, which keeps it positive;
    it is not decayed.

    Args:
        pairs: What to learn from.
        options: Shape of the gate and course of the training; default the paper's.
        gate: Class of the gate, called with the numbers of features and objectives; default a
            :class:`GatingNetwork` of the shape that ``options`` give.
        seed: Seed of the initial weights and of the order of the pairs.
        device: Device to train on, as torch names it.
        validation: Pairs that decide which step's weights are kept, and when to stop; default a
            share ``options.validation_fraction`` of the prompts of ``pairs``.
        checkpoint: File that training is resumed from and saved to at every point of the
            curve: after a kill, the same call ends with the same weights.
        on_point: Called with every new point of the curve.
        show_progress: Draw a progress bar on standard error.
        description: Name in the progress bar.

    Raises:
        ArmormError: there are no pairs, or the loss stops being finite.
        StoreError: the checkpoint is of another run.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> prompts = torch.eye(2)  # two prompts, each decided by an objective of its own
        >>> prompt = torch.arange(200) % 2
        >>> differences = torch.randn(200, 2, generator=generator)
        >>> differences *= differences[torch.arange(200), prompt].sign()[:, None]
        >>> pairs = RewardPairs(prompts, prompt, differences)
        >>> options = GateOptions(hidden_dim=8, n_hidden=1, steps=200, learning_rate=0.01)
        >>> fit_gate(pairs, options).gate(prompts).argmax(dim=1).tolist()
        [0, 1]
    """
    options = options or GateOptions()
    if len(pairs) == 0:
        raise ArmormError("There are no preference pairs to train the gate on.")
    if validation is None and options.validation_fraction > 0:
        pairs, validation = pairs.split(options.validation_fraction, seed)
    training = _Training(pairs, validation, options, gate, seed, device, checkpoint)
    with progress_bar(description, options.steps, "steps", show_progress) as advance:
        advance(training.step)
        while training.step < options.steps and not training.is_stopped():
            training.take_step()
            advance(1)
            if training.step % training.point_every == 0 or training.step == options.steps:
                training.mark_point()
                if on_point is not None:
                    on_point(training.curve[-1])
    return training.result()


class _Training:
    """State that changes from step to step, saved and restored."""

    def __init__(
        self,
        pairs: RewardPairs,
        validation: RewardPairs | None,
        options: GateOptions,
        make_gate: Callable[[int, int], Gate] | None,
        seed: int,
        device: str,
        checkpoint: Path | None,
    ) -> None:
        self.options = options
        self.seed = seed
        self.device = torch.device(device)
        self.pairs = _on_device(pairs, self.device)
        self.validation = validation and _on_device(validation, self.device)
        self.point_every = options.evaluate_every or max(1, options.steps // 20)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shape = pairs.prompts.shape[1], pairs.differences.shape[1]
            gate = make_gate(*shape) if make_gate else _paper_gate(*shape, options)
        self.gate = gate.to(self.device)
        self.trained = [weight for weight in self.gate.parameters() if weight.requires_grad]
        self.forward: nn.Module = self.gate
        if options.compile:
            self.forward = cast(nn.Module, torch.compile(self.gate))
        self.log_beta = nn.Parameter(torch.tensor(options.beta, device=self.device).log())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.trained, "weight_decay": options.weight_decay},
                {"params": [self.log_beta], "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            fused=True,
        )
        self.step = 0
        self.losses: list[Tensor] = []
        self.curve: list[CurvePoint] = []
        self.best = self._weights()
        self.best_step = 0
        self.order: Tensor | None = None
        self.order_of = -1
        self.checkpoint = checkpoint
        self.fingerprint = _fingerprint(pairs, validation, options, seed, device, gate)
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def take_step(self) -> None:
        """Take one gradient step."""
        batch = self._batch()
        with _precision(self.options.precision, self.device):
            margin = margins(self.forward, self.pairs, batch)
        loss = bradley_terry_loss(margin, self.log_beta.exp())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._set_learning_rate()
        self.optimizer.step()
        self.losses.append(loss.detach())
        self.step += 1

    def _set_learning_rate(self) -> None:
        """Return the learning rate: cosine decay from the step number alone, for exact resuming."""
        share = self.step / self.options.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def mark_point(self) -> None:
        """Add a point to the curve, keep the weights if they are the best, and save."""
        loss = float(torch.stack(self.losses).mean())
        if not torch.isfinite(torch.stack(self.losses)).all():
            raise ArmormError("The gate's loss is not finite. Lower the learning rate or beta.")
        self.losses.clear()
        held = self._validate()
        self.curve.append(CurvePoint(self.step, loss, float(self.log_beta.detach().exp()), *held))
        if self.validation is None or _is_best(self.curve):
            self.best, self.best_step = self._weights(), self.step
        if self.checkpoint is not None:
            write_atomically(self.checkpoint, self._state())

    def is_stopped(self) -> bool:
        """Return true if the validation loss has not improved for ``patience`` points."""
        patience = self.options.patience
        if patience is None or self.validation is None:
            return False
        since = [point for point in self.curve if point.step > self.best_step]
        return len(since) >= patience

    def result(self) -> GateTraining:
        self.gate.load_state_dict({k: v for k, v in self.best.items() if k != "log_beta"})
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)
        return GateTraining(
            self.gate.cpu().eval().requires_grad_(False),
            float(self.best["log_beta"].exp()),
            self.best_step,
            self.curve,
        )

    def _batch(self) -> Tensor:
        """Return the pairs of this step; a last short batch of a pass is not used."""
        size = min(self.options.batch_size, len(self.pairs))
        per_pass = len(self.pairs) // size
        number, place = divmod(self.step, per_pass)
        if self.order is None or self.order_of != number:
            generator = torch.Generator().manual_seed(_mix(self.seed, number))
            order = torch.randperm(len(self.pairs), generator=generator)
            self.order, self.order_of = order.to(self.device), number
        return self.order[place * size : (place + 1) * size]

    @torch.no_grad()
    def _validate(self) -> tuple[float | None, float | None]:
        if self.validation is None:
            return None, None
        margin = margins(self.gate, self.validation)
        loss = bradley_terry_loss(margin, self.log_beta.exp())
        return float(loss), float((margin > 0).float().mean())

    def _weights(self) -> dict[str, Tensor]:
        weights = {key: value.detach().clone() for key, value in self.gate.state_dict().items()}
        return {**weights, "log_beta": self.log_beta.detach().clone()}

    def _state(self) -> bytes:
        """Return everything that the next step depends on, as a safetensors file."""
        tensors = {f"now.{key}": value for key, value in self._weights().items()}
        tensors |= {f"best.{key}": value for key, value in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
        record = {
            "fingerprint": self.fingerprint,
            "step": str(self.step),
            "best_step": str(self.best_step),
            "curve": json.dumps([asdict(point) for point in self.curve]),
        }
        content: bytes = save({k: v.contiguous().cpu() for k, v in tensors.items()}, record)
        return content

    def _resume(self, file: Path) -> None:
        tensors, record = _read_checkpoint(file)
        if record.get("fingerprint") != self.fingerprint:
            raise StoreError(
                f"{file} is the unfinished gate of other pairs or options. Delete it to start "
                "again."
            )
        now = _with_prefix(tensors, "now.")
        self.log_beta.data.copy_(now.pop("log_beta"))
        self.gate.load_state_dict(now)
        self.best = {k: v.to(self.device) for k, v in _with_prefix(tensors, "best.").items()}
        state = self.optimizer.state_dict()
        state["state"] = {
            number: _with_prefix(tensors, f"optimizer.{number}.")
            for number in range(len(self.trained) + 1)
        }
        self.optimizer.load_state_dict(state)
        self.step, self.best_step = int(record["step"]), int(record["best_step"])
        self.curve = [CurvePoint(**point) for point in json.loads(record["curve"])]


def _paper_gate(features: int, objectives: int, options: GateOptions) -> GatingNetwork:
    return GatingNetwork(
        features, objectives, options.hidden_dim, options.n_hidden, options.temperature
    )


def _read_checkpoint(file: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{file} is damaged ({error}). Delete it to start again.") from error


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _is_best(curve: list[CurvePoint]) -> bool:
    losses = [point.validation_loss for point in curve if point.validation_loss is not None]
    return losses[-1] <= min(losses)


def _on_device(pairs: RewardPairs, device: torch.device) -> RewardPairs:
    """Return the pairs on the device; features that would fill half of it come batch by batch."""
    if device.type == "cpu":
        return pairs
    prompts = pairs.prompts
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    if device.type != "cuda" or prompts.nbytes < free // 2:
        prompts = prompts.to(device)
    return RewardPairs(prompts, pairs.prompt.to(device), pairs.differences.to(device))


def _precision(precision: Precision, device: torch.device) -> Any:
    if precision == "tf32" and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _mix(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"pass {seed} {number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _fingerprint(
    pairs: RewardPairs,
    validation: RewardPairs | None,
    options: GateOptions,
    seed: int,
    device: str,
    gate: Gate,
) -> str:
    course = {**options.model_dump(mode="json"), "seed": seed, "device": device, "gate": str(gate)}
    digest = hashlib.sha256(json.dumps(course, sort_keys=True).encode())
    for part in (pairs, validation):
        if part is not None:
            for tensor in (part.prompt, part.differences):
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
            digest.update(_head_bytes(part.prompts))
    return digest.hexdigest()


def _head_bytes(prompts: Float[Tensor, "prompts features"]) -> bytes:
    """Return enough of the features to distinguish two stores, without reading gigabytes."""
    sample = prompts[:: max(1, len(prompts) // 64)].float().contiguous()
    return bytes(sample.numpy().tobytes())
