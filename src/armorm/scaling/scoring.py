"""Scoring of files of any size by a pool of workers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from armorm.data.ranges import FileRange, cut_file, merge_ranges, range_rows
from armorm.data.sources import matching_files
from armorm.errors import ArmormError
from armorm.evaluation.scoring import (
    ScoringSummary,
    chunks,
    describe_conversation,
    encode_conversation,
    fingerprint,
    score_chunk,
    task_name,
    write_lines,
)
from armorm.model import RewardModel
from armorm.progress import progress_bar
from armorm.scaling.parts import PartRecord, PartsFolder
from armorm.scaling.pool import Task, Workers, ray_pool

CHUNKS_OF_A_PART = 8
MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How each worker loads the model.

    Attributes:
        name: Folder or hub id.
        options: Arguments of :meth:`armorm.RewardModel.from_pretrained`.
        steer: Factors on objectives.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steer: Mapping[str, float] = field(default_factory=dict)

    def load(self) -> RewardModel:
        model = RewardModel.from_pretrained(self.name, **self.options)
        return model.steer(self.steer) if self.steer else model


def score_with_ray(
    model: ModelSettings,
    source: str | Path,
    output: Path,
    workers: Workers,
    *,
    uncertainty: bool = False,
    skip_invalid: bool = False,
    rows_at_once: int = 256,
    show_progress: bool = False,
) -> ScoringSummary:
    """:func:`armorm.evaluation.scoring.score_file`, by a pool; the output is the same.

    The input is cut into parts of ``8 * rows_at_once`` rows (larger ones where there would be more
    than 10,000).  Workers read their parts from the files and write them beside ``output``, so
    input and output must be on a disk that all workers see under the same name.

    Args:
        model: What scores.
        source: JSON lines, Parquet or Arrow; a glob pattern for several files, whose rows follow
            each other in the output.
        output: JSON lines.
        workers: How many.
        uncertainty: Also how sure the head is.
        skip_invalid: List bad rows in ``<output>.invalid`` instead of stopping.
        rows_at_once: Rows that are scored together.
        show_progress: Draw a progress bar on standard error.

    Raises:
        MissingExtraError: Ray is not installed.
        RecipeError: there is no such file, or its format cannot be shared among workers.
        InputError: a row is invalid, unless ``skip_invalid``.
        ArmormError: the unfinished output belongs to another model or input, or the cluster
            cannot be reached.
    """
    started = time.perf_counter()
    _refuse_other_run(output)
    files = [Path(source)] if Path(source).is_file() else matching_files(str(source))
    rows_of_part = CHUNKS_OF_A_PART * rows_at_once
    ranges = [part for file in files for part in cut_file(file, rows_of_part)]
    ranges = merge_ranges(ranges, MOST_PARTS)
    total = sum(part.rows for part in ranges)
    folder = PartsFolder(output)
    with (
        ray_pool(workers) as pool,
        progress_bar("score", total, "rows", show_progress) as advance,
    ):
        settings: dict[str, Any] = {"model": asdict(model), "uncertainty": uncertainty}
        settings |= {
            "output": str(output.absolute()),
            "skip_invalid": skip_invalid,
            "rows_at_once": rows_at_once,
            "manifest": {
                **pool.describe(ScoringJob, settings),
                "sources": [fingerprint(file) for file in files],
                "rows_of_part": rows_of_part,
                "parts": len(ranges),
            },
        }
        folder.start(settings["manifest"])
        records = {i: folder.record(i) for i in range(len(ranges))}
        missing = [i for i, record in records.items() if record is None]
        resumed_at = total - sum(ranges[i].rows for i in missing)
        advance(resumed_at)
        tasks = [{"number": i, "range": list(ranges[i])} for i in missing]
        for made in pool.work(ScoringJob, settings, tasks):
            records[made["number"]] = record = PartRecord(**made["record"])
            advance(record.rows)
    done = [record for record in records.values() if record is not None]
    skipped = sum(record.skipped for record in done)
    folder.finish(len(ranges), keep_invalid=skipped > 0)
    return ScoringSummary(
        rows=sum(record.rows for record in done),
        scored=sum(record.scored for record in done),
        skipped=skipped,
        resumed_at=resumed_at,
        invalid_file=str(folder.invalid) if skipped else None,
        seconds=time.perf_counter() - started,
    )


class ScoringJob:
    """Reads, scores and writes parts of an output that the driver started."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._model = ModelSettings(**settings["model"]).load()
        self._settings = settings

    def describe(self) -> dict[str, Any]:
        """What tells this model from another one."""
        try:
            task = task_name(self._settings["uncertainty"])
            return {"model": f"{task}: {self._model.fingerprint()}"}
        finally:
            self._model.backbone.close()

    def make(self, task: Task) -> dict[str, Any]:
        """Score the rows of one range."""
        folder = PartsFolder(Path(self._settings["output"]))
        folder.join_in(self._settings["manifest"])
        rows = range_rows(FileRange(*task["range"]))
        with folder.write(task["number"]) as (scored, bad, record):
            for chunk in chunks(rows, self._settings["rows_at_once"]):
                lines, errors = score_chunk(
                    self._model,
                    chunk,
                    encode_conversation,
                    describe_conversation,
                    self._settings["skip_invalid"],
                    self._settings["uncertainty"],
                )
                write_lines(scored, lines)
                write_lines(bad, [error.as_dict() for error in errors])
                record.rows += len(chunk)
                record.scored += len(lines)
                record.skipped += len(errors)
        return {"number": task["number"], "record": asdict(record)}


def _refuse_other_run(output: Path) -> None:
    journal = output.with_name(f"{output.name}.progress.json")
    if journal.exists():
        raise ArmormError(
            f"{output} was begun by one process. Finish it with the same command as before, or "
            f"delete {journal} to start again."
        )
