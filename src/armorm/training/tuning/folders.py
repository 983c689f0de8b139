"""The folder a trained backbone is left in, and how an interrupted training is taken up again.

A training works in ``NAME.unfinished``, which is renamed to ``NAME`` when all of it is there.
``training.json`` in both says what the training depends on, so that nothing stale is used.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from armorm.errors import StoreError
from armorm.features import Backbone
from armorm.files import read_json, write_json
from armorm.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRETRAINED, FINETUNED = "pretrained", "finetuned"
RECORD = "training.json"


def backbone_folder(recipe: Recipe, run: Path, *, before_finetuning: bool = False) -> str | Path:
    """Where the backbone of a run is: as the recipe names it, or what the run has trained.

    Args:
        recipe: The recipe.
        run: The run folder.
        before_finetuning: The one that fine-tuning starts from.

    Raises:
        StoreError: the recipe trains it and the run has not done so yet.
    """
    if recipe.head.method == "finetune" and not before_finetuning:
        return _trained(run / FINETUNED, "finetune")
    if recipe.pretraining is not None:
        return _trained(run / PRETRAINED, "pretrain")
    return recipe.backbone.model


def _trained(folder: Path, command: str) -> Path:
    if not folder.is_dir():
        raise StoreError(f"{folder} is not there. Run `armorm {command}` first.")
    return folder


def tuning_reports(recipe: Recipe, run: Path) -> dict[str, dict[str, Any]]:
    """What the trainings of the backbone reported, for ``metrics.json``; empty without any."""
    stages = {}
    if recipe.pretraining is not None:
        stages["pretraining"] = run / PRETRAINED
    if recipe.head.method == "finetune":
        stages["finetuning"] = run / FINETUNED
    return {name: read_json(folder / RECORD)["report"] for name, folder in stages.items()}


@dataclass(frozen=True, slots=True)
class TuningFolder:
    """One training of a backbone on disk.

    Attributes:
        path: Where the trained backbone will stand.
        settings: Everything the outcome depends on, as JSON.
    """

    path: Path
    settings: dict[str, Any]

    @property
    def work(self) -> Path:
        """What is there while the training runs."""
        return self.path.with_name(f"{self.path.name}.unfinished")

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    def is_finished(self) -> bool:
        """Whether this very training has been done; if not, its work folder is made ready.

        Raises:
            StoreError: another training is there, finished or not.
        """
        if self.path.is_dir():
            self._check_same(self.path)
            shutil.rmtree(self.work, ignore_errors=True)
            return True
        if (self.work / RECORD).exists():
            self._check_same(self.work)
        else:
            write_json(self.work / RECORD, {"settings": self.settings})
        return False

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; what a kill tore is removed."""
        whole = []
        for folder in self.checkpoints.glob("checkpoint-*"):
            try:
                # The Trainer writes its state after everything else.
                whole.append((read_json(folder / "trainer_state.json")["global_step"], folder))
            except (OSError, ValueError, KeyError):
                shutil.rmtree(folder)
        return max(whole)[1] if whole else None

    def finish(
        self,
        backbone: Backbone,
        decoder: PreTrainedModel,
        score: Float[Tensor, "outputs hidden"],
        report: dict[str, Any],
    ) -> None:
        """Write the trained backbone with its report, and move it to its place."""
        result = self.work / "result"
        shutil.rmtree(result, ignore_errors=True)
        save_scored_backbone(result, backbone, decoder, score)
        write_json(result / RECORD, {"settings": self.settings, "report": report})
        result.rename(self.path)
        # Files that are still open keep a folder on some systems; the next start removes it.
        shutil.rmtree(self.work, ignore_errors=True)

    def _check_same(self, folder: Path) -> None:
        try:
            there = read_json(folder / RECORD)["settings"]
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{folder} cannot be read ({error}). Delete it.") from error
        now = json.loads(json.dumps(self.settings))
        different = [
            f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
            for key in sorted(there.keys() | now.keys())
            if there.get(key) != now.get(key)
        ]
        if different:
            raise StoreError(
                f"{folder} was trained with other settings:\n  "
                + "\n  ".join(different)
                + "\nDelete it, or choose another output folder."
            )


def save_scored_backbone(
    folder: Path,
    backbone: Backbone,
    decoder: PreTrainedModel,
    score: Float[Tensor, "outputs hidden"],
) -> None:
    """Write a decoder and the linear layer it was trained under, as transformers would.

    The folder is an ordinary sequence classifier without intercept (``score.weight``); read as a
    backbone, its score is left aside.

    Args:
        folder: Where to.
        backbone: Whose tokenizer and template go with it.
        decoder: The trained decoder, adapters merged.
        score: The layer. Shape (outputs, hidden).
    """
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True)
    prefix = decoder.base_model_prefix
    body = {f"{prefix}.{name}": tensor for name, tensor in decoder.state_dict().items()}
    save_torch_state_dict({**body, "score.weight": score.detach().float()}, folder)
    family = type(decoder).__name__.removesuffix("Model")
    config = decoder.config.to_dict() | {
        "architectures": [f"{family}ForSequenceClassification"],
        "id2label": {str(i): f"LABEL_{i}" for i in range(len(score))},
        "label2id": {f"LABEL_{i}": i for i in range(len(score))},
        "problem_type": "regression",
        "dtype": str(decoder.dtype).removeprefix("torch."),
    }
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)
    backbone.tokenizer.save_pretrained(folder)


def read_score(folder: Path) -> Float[Tensor, "outputs hidden"]:
    """The linear layer that :func:`save_scored_backbone` left beside the decoder."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if "score.weight" in opened.keys():  # noqa: SIM118 (not a mapping)
                weight: Tensor = opened.get_tensor("score.weight")
                return weight
    raise StoreError(f"{folder} holds no score.weight. Delete it and train again.")
