"""Training loop of stage 2: reproducible, resumable, and one gate evaluation per pair."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from armorm.errors import ArmormError, StoreError
from armorm.files import write_atomically
from armorm.heads.fixed_weights import fit_fixed_weights
from armorm.heads.gating import Gate, GatingNetwork, RewardPairs, bradley_terry_loss, margins
from armorm.heads.options import GateOptions, Precision
from armorm.heads.shrinkage import SHARES, Shrinkage, blended_gate, choose_shrinkage
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
        fold: Number of the fold that is validated on.
    """

    step: int
    loss: float
    beta: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    fold: int = 0


@dataclass(frozen=True, slots=True)
class GateTraining:
    """A trained gate and the record of its training.

    Attributes:
        gate: The network, in evaluation mode, on the CPU.
        beta: The scale: P(a over b) = sigmoid(beta (R_a - R_b)); fitted on the pairs that the
            folds' gates have not seen, where there are any, else learned with the gate.
        steps: The step that each fold's weights are from.
        curve: Points of the training curves of all folds.
        shrinkage: Share of the gate in its logits, the rest being that of fixed weights; ``None``
            without shrinkage.
    """

    gate: Gate
    beta: float
    steps: tuple[int, ...]
    curve: tuple[CurvePoint, ...] = ()
    shrinkage: Shrinkage | None = None


def fit_gate(
    pairs: RewardPairs,
    options: GateOptions | None = None,
    *,
    gate: Callable[[int, int], Gate] | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
    show_progress: bool = False,
    description: str = "gate",
) -> GateTraining:
    """Train a gate on preference pairs.

    A gate is trained without each fold of the prompts, keeping the weights of the step that does
    best on it; the gates' mean logits, shrunk towards those of fixed weights, make one gate of the
    released layout (:mod:`armorm.heads.shrinkage`).

    Each is trained by AdamW with cosine decay to zero.  Each pass over the pairs is a new
    permutation, drawn from the seed and the number of the pass.  beta is optimised as log beta,
    which keeps it positive; it is not decayed.

    Args:
        pairs: What to learn from.
        options: Shape of the gate and course of the training.
        gate: Class of the gate, called with the numbers of features and objectives; default a
            :class:`GatingNetwork` of the shape that ``options`` give.
        seed: Seed of the folds, of the initial weights and of the order of the pairs.
        device: Device to train on, as torch names it.
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
        >>> prompts = torch.eye(2).repeat(50, 1)  # two topics, each decided by its own objective
        >>> prompt = torch.arange(200) % 100
        >>> differences = torch.randn(200, 2, generator=generator)
        >>> differences *= differences[torch.arange(200), prompt % 2].sign()[:, None]
        >>> pairs = RewardPairs(prompts, prompt, differences)
        >>> options = GateOptions(hidden_dim=8, steps=200, learning_rate=0.01)
        >>> training = fit_gate(pairs, options)
        >>> training.gate(torch.eye(2)).argmax(dim=1).tolist(), training.shrinkage.share
        ([0, 1], 1.0)
    """
    options = options or GateOptions()
    if len(pairs) == 0:
        raise ArmormError("There are no preference pairs to train the gate on.")
    folds: Sequence[_Fold] = pairs.folds(options.folds, seed) if options.folds else [(pairs, None)]
    files = [_checkpoint_of(checkpoint, number) for number in range(len(folds))]
    trained = []
    for number, (training_pairs, validation) in enumerate(folds):
        training = _Training(
            training_pairs, validation, options, gate, seed, device, files[number], number
        )
        name = description if len(folds) == 1 else f"{description} {number + 1}/{len(folds)}"
        with progress_bar(name, options.steps, "steps", show_progress) as advance:
            training.run(advance, on_point)
        trained.append(training.result())
    joined = trained[0] if not options.folds else _joined(trained, folds, pairs, options)
    for file in files:
        if file is not None:
            file.unlink(missing_ok=True)
    return joined


_Fold = tuple[RewardPairs, RewardPairs | None]


def _checkpoint_of(file: Path | None, fold: int) -> Path | None:
    """Return the file of a fold's gate. The first has the name given, as a single gate has."""
    return file if file is None or fold == 0 else file.with_name(f"{file.name}.{fold}")


def _joined(
    trained: Sequence[GateTraining],
    folds: Sequence[_Fold],
    pairs: RewardPairs,
    options: GateOptions,
) -> GateTraining:
    """Average the folds' gates; choose shrinkage and beta on the pairs that each has not seen."""
    logits, fixed, differences = [], [], []
    for one, (seen, unseen) in zip(trained, folds, strict=True):
        assert unseen is not None
        distinct, place = torch.unique(unseen.prompt, return_inverse=True)
        with torch.inference_mode():
            found = one.gate.logits(pairs.prompts[distinct].float()) / one.gate.temperature
        logits.append(found[place].double().numpy())
        fixed.append(np.broadcast_to(fit_fixed_weights(seen).logits, logits[-1].shape))
        differences.append(unseen.differences.double().numpy())
    shrinkage = choose_shrinkage(
        np.concatenate(logits),
        np.concatenate(fixed),
        np.concatenate(differences),
        shares=SHARES if options.shrinkage == "auto" else (1.0,),
    )
    gate = blended_gate(
        [one.gate for one in trained], shrinkage.share, fit_fixed_weights(pairs).logits
    )
    return GateTraining(
        gate,
        shrinkage.beta,
        tuple(step for one in trained for step in one.steps),
        tuple(point for one in trained for point in one.curve),
        shrinkage if options.shrinkage == "auto" else None,
    )


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
        fold: int,
    ) -> None:
        """Prepare the training of the gate of one fold, or of the only one."""
        seed = _mix_fold(seed, fold)
        self.fold = fold
        self.options = options
        self.seed = seed
        self.device = torch.device(device)
        self.pairs = _on_device(pairs, self.device)
        self.validation = validation and _on_device(validation, self.device)
        self.point_every = options.evaluate_every or max(1, options.steps // 40)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shape = pairs.prompts.shape[1], pairs.differences.shape[1]
            gate = make_gate(*shape) if make_gate else _paper_gate(*shape, options)
        self.gate = gate.to(self.device)
        self.trained = [weight for weight in self.gate.parameters() if weight.requires_grad]
        self.forward: nn.Module = self.gate
        if options.compile:
            self.forward = cast(nn.Module, torch.compile(self.gate))
        beta = options.beta or fit_fixed_weights(pairs).beta / 2
        self.log_beta = nn.Parameter(torch.tensor(beta, device=self.device).log())
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

    def run(
        self, advance: Callable[[int], None], on_point: Callable[[CurvePoint], None] | None
    ) -> None:
        """Train to the last step, or until patience ends."""
        advance(self.step)
        while self.step < self.options.steps and not self.is_stopped():
            self.take_step()
            advance(1)
            if self.step % self.point_every == 0 or self.step == self.options.steps:
                self.mark_point()
                if on_point is not None:
                    on_point(self.curve[-1])

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
        beta = float(self.log_beta.detach().exp())
        self.curve.append(CurvePoint(self.step, loss, beta, *held, fold=self.fold))
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
        """Return the gate with the weights that were kept."""
        self.gate.load_state_dict({k: v for k, v in self.best.items() if k != "log_beta"})
        return GateTraining(
            self.gate.cpu().eval().requires_grad_(False),
            float(self.best["log_beta"].exp()),
            (self.best_step,),
            tuple(self.curve),
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


def _mix_fold(seed: int, fold: int) -> int:
    """Return the seed of a fold's gate: the given one for the first, which may be the only one."""
    return seed if fold == 0 else _mix(seed, fold) % 2**32


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
