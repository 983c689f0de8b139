"""Scoring of a benchmark's rows, in parts that a killed run keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from armorm.data.sources import InvalidPolicy
from armorm.errors import ArmormError, DamagedFileError
from armorm.evaluation.benchmarks.rows import BenchmarkData
from armorm.evaluation.benchmarks.scores import read_scores, record_of
from armorm.evaluation.scorers.base import ROWS_AT_ONCE, Scored, Scorer
from armorm.files import exclusive, json_line, read_json, write_json
from armorm.jobs.parts import PartRecord, PartsFolder
from armorm.progress import progress_bar


def score_rows(
    scorer: Scorer,
    benchmark: str,
    data: BenchmarkData,
    folder: Path | None = None,
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> list[Scored]:
    """Score all responses of every row, each prompt once for all its responses.

    With a folder the scores are kept in ``<folder>/<benchmark>/<scorer>.jsonl``: a part at a time
    while they are made, so that a killed run is resumed, and whole afterwards, so that the same
    call reads them instead of scoring again.

    Args:
        scorer: The scorer.
        benchmark: Name of the benchmark.
        data: Its rows.
        folder: Folder of scores.
        invalid: ``error`` stops at the first row without scores, unless it is too long and the
            scorer skips such rows; ``skip`` keeps the reason in its place.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: A row has no scores, and ``invalid`` is ``error``.
        ArmormError: The folder holds scores of another model or other rows.
    """
    chunks = range(0, len(data.rows), ROWS_AT_ONCE)
    doing = f"{benchmark}: {scorer.name}"
    if folder is None:
        with progress_bar(doing, len(data.rows), "rows", show_progress) as advance:
            found: list[Scored] = []
            for start in chunks:
                found += _chunk(scorer, data, start, invalid)
                advance(min(ROWS_AT_ONCE, len(data.rows) - start))
        return found
    output = folder / file_name(benchmark) / f"{file_name(scorer.name)}.jsonl"
    manifest = {"rows": data.fingerprint(), "scorer": scorer.identity}
    with exclusive(output, doing):
        _check_manifest(output, manifest)
        if not output.exists():
            parts = PartsFolder(output)
            parts.start(manifest, ())
            records: list[PartRecord] = []
            with progress_bar(doing, len(data.rows), "rows", show_progress) as advance:
                for number, start in enumerate(chunks):
                    record = parts.record(number)
                    if record is None:
                        rows = data.rows[start : start + ROWS_AT_ONCE]
                        lines = [
                            json_line(record_of(row.id, one))
                            for row, one in zip(
                                rows, _chunk(scorer, data, start, invalid), strict=True
                            )
                        ]
                        record = parts.write(number, lines, [])
                    records.append(record)
                    advance(record.rows)
            parts.finish(records)
        found = read_scores(output, data)
    _check(found, data, 0, invalid)
    return found


def file_name(scorer: str) -> str:
    """Return a name for files of a scorer, whose own name may be a path or an address.

    Example:
        >>> file_name("runs/quickstart/model")
        'runs-quickstart-model'
    """
    return re.sub(r"[^\w.-]+", "-", scorer).strip("-.")[-100:] or "model"


def _check_manifest(output: Path, manifest: dict[str, Any]) -> None:
    file = output.with_suffix(".manifest.json")
    try:
        begun = read_json(file)
    except FileNotFoundError:
        if output.exists():
            raise ArmormError(
                f"{output} exists, and nothing says which model and rows it is of. Choose another "
                "output folder, or remove the file."
            ) from None
        write_json(file, manifest)
        return
    except DamagedFileError as error:
        raise DamagedFileError(f"{error} Delete it with {output} to score again.") from error
    for key, what in (("scorer", "another model"), ("rows", "other rows")):
        if begun.get(key) != manifest[key]:
            raise ArmormError(
                f"{output} holds scores of {what}. Choose another output folder, or delete "
                f"{file} with it to score again."
            )


def _chunk(
    scorer: Scorer, data: BenchmarkData, start: int, invalid: InvalidPolicy
) -> Sequence[Scored]:
    found = scorer.score(data.rows[start : start + ROWS_AT_ONCE])
    _check(found, data, start, invalid)
    return found


def _check(
    found: Sequence[Scored], data: BenchmarkData, start: int, invalid: InvalidPolicy
) -> None:
    """Raise the error of the first row that has no scores and should have some."""
    for place, one in enumerate(found, start=start):
        if one.error is not None and not one.too_long and invalid == "error":
            raise one.error.at(*data.places[place])
