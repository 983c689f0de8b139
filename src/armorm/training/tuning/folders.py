"""The folder of a trained backbone, and its resumption after an interruption.

A training works in ``NAME.unfinished``, which is renamed to ``NAME`` when it is complete.
``training.json`` in both records all settings of the training, so that no other one is resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from armorm.errors import StoreError
from armorm.features import Backbone
from armorm.files import read_json, write_json
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORD = "training.json"


def backbone_folder(
    recipe: Recipe, output: str | Path | RunFolder, *, before_finetuning: bool = False
) -> str | Path:
    """Return the name or folder of a run's backbone: the recipe's, or the one that was trained.

    Args:
        recipe: The recipe.
        output: Run folder.
        before_finetuning: Return the backbone that fine-tuning starts from.

    Raises:
        StoreError: The recipe trains the backbone and the run has not done so yet.
    """
    run = RunFolder.of(output)
    if recipe.head.method == "finetune" and not before_finetuning:
        return _trained(run.finetuned, "finetune")
    if recipe.pretraining is not None:
        return _trained(run.pretrained, "pretrain")
    return recipe.backbone.model


def _trained(folder: Path, command: str) -> Path:
    if not folder.is_dir():
        raise StoreError(f"{folder} is not there. Run `armorm {command}` first.")
    return folder


def tuning_reports(recipe: Recipe, run: RunFolder) -> dict[str, dict[str, Any]]:
    """Return the reports of the trainings of the backbone, by stage; empty without any."""
    stages = {}
    if recipe.pretraining is not None:
        stages["pretraining"] = run.pretrained
    if recipe.head.method == "finetune":
        stages["finetuning"] = run.finetuned
    return {name: read_json(folder / RECORD)["report"] for name, folder in stages.items()}


@dataclass(frozen=True, slots=True)
class TuningFolder:
    """One training of a backbone on disk.

    Attributes:
        path: Folder of the trained backbone.
        settings: Everything that the outcome depends on, as JSON.
    """

    path: Path
    settings: dict[str, Any]

    @property
    def work(self) -> Path:
        """Folder of the training while it runs."""
        return self.path.with_name(f"{self.path.name}.unfinished")

    @property
    def checkpoints(self) -> Path:
        """Folder of the Trainer's checkpoints."""
        return self.work / "checkpoints"

    def is_finished(self) -> bool:
        """Return True if this training has been done; if not, prepare its work folder.

        Raises:
            StoreError: The folder holds another training, finished or not.
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
        """Return the newest complete checkpoint, and delete incomplete ones."""
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
        """Write the trained backbone with its report, and rename it to its final name."""
        self.finish_with(
            lambda result: save_scored_backbone(result, backbone, decoder, score), report
        )

    def finish_with(self, write: Callable[[Path], None], report: dict[str, Any]) -> None:
        """Write the trained model with its report, and rename it to its final name.

        Args:
            write: Writes the model into a folder.
            report: Report of the training.
        """
        result = self.work / "result"
        shutil.rmtree(result, ignore_errors=True)
        write(result)
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

    The folder is an ordinary sequence classifier without intercept (``score.weight``); a backbone
    that is loaded from it ignores the score.

    Args:
        folder: Folder to write.
        backbone: Backbone whose tokenizer and template are written with it.
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
    """Return the linear layer that :func:`save_scored_backbone` wrote beside the decoder."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if "score.weight" in opened.keys():  # noqa: SIM118 (not a mapping)
                weight: Tensor = opened.get_tensor("score.weight")
                return weight
    raise StoreError(f"{folder} holds no score.weight. Delete it and train again.")
