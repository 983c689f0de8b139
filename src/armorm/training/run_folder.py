"""Layout of a training run's folder."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from armorm.features import Process
from armorm.files import check_output_file, exclusive, writing
from armorm.heads.bradley_terry import BRADLEY_TERRY_FILE


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a training run. The layout is described in docs/formats.md.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def of(cls, path: str | Path | RunFolder) -> RunFolder:
        """Return the run folder of a path, or the folder itself."""
        return path if isinstance(path, RunFolder) else cls(Path(path))

    @property
    def recipe(self) -> Path:
        """The recipe with all defaults written out."""
        return self.path / "recipe.yaml"

    @property
    def data_report(self) -> Path:
        """Account of the rows read, skipped and extracted."""
        return self.path / "data.json"

    @property
    def held_out_pairs(self) -> Path:
        """Held-out pairs as preference rows, ready for ``armorm benchmark``."""
        return self.path / "held_out_pairs.jsonl"

    def invalid(self, kind: str) -> Path:
        """Return the list of skipped rows: ``rated``, ``preferences`` or ``pretraining``."""
        return self.path / f"invalid-{kind}.jsonl"

    @property
    def pretrained(self) -> Path:
        """Backbone after the Bradley–Terry training."""
        return self.path / "pretrained"

    @property
    def finetuned(self) -> Path:
        """Backbone after fine-tuning on the ratings."""
        return self.path / "finetuned"

    @property
    def pairwise(self) -> Path:
        """Pairwise preference model, a rival of the gate."""
        return self.path / "pairwise"

    @property
    def pairwise_rows(self) -> Path:
        """Rows that the pairwise model is trained on, in TRL's prompt-completion form."""
        return self.path / "pairwise_rows.jsonl"

    @property
    def features(self) -> Path:
        """Folder of the feature stores."""
        return self.path / "features"

    @property
    def rated_features(self) -> Path:
        """Features of the rated responses."""
        return self.features / "rated"

    @property
    def preference_features(self) -> Path:
        """Features of the preference pairs."""
        return self.features / "preferences"

    @property
    def head(self) -> Path:
        """Regression layer, its report and its uncertainty."""
        return self.path / "head"

    @property
    def statistics(self) -> Path:
        """Sums that the head is fitted on."""
        return self.head / "statistics"

    @property
    def bradley_terry_head(self) -> Path:
        """Linear head of the rival that knows no objectives."""
        return self.path / BRADLEY_TERRY_FILE

    @property
    def gate_checkpoint(self) -> Path:
        """Unfinished gate of an interrupted run."""
        return self.path / "gate.unfinished.safetensors"

    @property
    def logs(self) -> Path:
        """TensorBoard's files."""
        return self.path / "logs"

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """Figures of the run for programs."""
        return self.path / "metrics.json"

    @property
    def leave_out(self) -> Path:
        """Figures on each source, of stage 2 trained without it."""
        return self.path / "leave_out.json"

    @property
    def report(self) -> Path:
        """Figures of the run for people."""
        return self.path / "report.html"

    @property
    def layers(self) -> Path:
        """Run folders of the layers that ``armorm layers`` compares."""
        return self.path / "layers"

    @property
    def layer_report(self) -> Path:
        """Comparison of the layers for programs."""
        return self.path / "layers.json"

    @property
    def layer_figure(self) -> Path:
        """Picture of the comparison."""
        return self.path / "layers.svg"

    def locked(self, doing: str) -> AbstractContextManager[None]:
        """Return a lock on the folder: a second run in it is refused at once.

        Of several processes that extract features together, the first one holds it.
        """
        return exclusive(self.path, doing) if Process.current().is_first else nullcontext()

    def check_writable(self) -> None:
        """Check that every output of a run can be written, before hours of work.

        Raises:
            OutputError: An output cannot be written, or something else has its name.
        """
        files = (self.recipe, self.data_report, self.held_out_pairs, self.metrics, self.report)
        for file in files:
            check_output_file(file)
        for folder in (self.path, self.features, self.head, self.model):
            with writing(folder):
                if folder.is_dir():
                    probe = folder / f".writable.{os.getpid()}.tmp"
                    probe.touch()
                    probe.unlink()
                elif folder is self.path or folder.exists():
                    folder.mkdir(parents=True)
