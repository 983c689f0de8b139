"""Scoring whole files: each input row kept, its scores added, resumable at any instant."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from armorm.conversations import (
    Conversation,
    EncodedPrompt,
    located_in,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.data.sources import RawRow, count_rows, file_rows
from armorm.errors import ArmormError, InputError
from armorm.files import json_line, read_json, write_json
from armorm.model import RewardModel, Rewards
from armorm.progress import progress_bar


@dataclass(frozen=True, slots=True)
class ScoringSummary:
    """What :func:`score_file` did.

    Attributes:
        rows: Input rows read, rows of an interrupted run included.
        scored: Rows written to the output.
        skipped: Invalid or too long rows, listed in ``invalid_file``.
        resumed_at: Rows that an interrupted run had already done.
        invalid_file: Where skipped rows are listed; ``None`` if there were none.
        seconds: Time of this run.
    """

    rows: int
    scored: int
    skipped: int
    resumed_at: int
    invalid_file: str | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Journal:
    """How far the output is certain, rewritten after each chunk of rows."""

    model: str
    source: str
    rows: int = 0
    scored: int = 0
    skipped: int = 0
    output_bytes: int = 0
    invalid_bytes: int = 0


Encode = Callable[[RewardModel, Mapping[str, Any]], EncodedPrompt]
"""Reads a row: the ids of its prompt with all responses to be scored. Raises InputError."""

Describe = Callable[[Mapping[str, Any], Rewards], dict[str, Any]]
"""Makes the output row from the input row and the scores of its responses."""


def score_file(
    model: RewardModel,
    source: Path,
    output: Path,
    *,
    uncertainty: bool = False,
    skip_invalid: bool = False,
    rows_at_once: int = 256,
    show_progress: bool = False,
) -> ScoringSummary:
    """Score every conversation of a file.

    Rows hold ``messages``, or ``prompt`` and ``response``; each is written to ``output`` as it
    came, with ``score``, ``rewards``, ``gating`` and ``coefficients`` added, and on request
    ``deviations``, ``score_deviation``, ``novelty`` and ``novel``.  The output appears
    under its name when it is whole; until then it is ``<output>.part``, and running the same
    command again goes on where it stopped.

    Raises:
        InputError: a row is invalid, unless ``skip_invalid``.
        ArmormError: the unfinished output belongs to another model or input, or ``uncertainty``
            is asked of a model that does not tell it.
    """
    return score_rows(
        model,
        source,
        output,
        encode=encode_conversation,
        describe=describe_conversation,
        task=task_name(uncertainty),
        uncertainty=uncertainty,
        skip_invalid=skip_invalid,
        rows_at_once=rows_at_once,
        show_progress=show_progress,
    )


def score_rows(
    model: RewardModel,
    source: Path,
    output: Path,
    *,
    encode: Encode,
    describe: Describe,
    task: str,
    uncertainty: bool = False,
    skip_invalid: bool = False,
    rows_at_once: int = 256,
    show_progress: bool = False,
) -> ScoringSummary:
    """Turn each row of a file into a scored row; resumable at any instant.

    Args:
        model: Scores what ``encode`` reads.
        source: JSON lines, Parquet or Arrow.
        output: JSON lines.
        encode: See :data:`Encode`.
        describe: See :data:`Describe`.
        task: What is done, with all its settings: an unfinished output of another task is not
            continued.  Its first word names the progress bar.
        uncertainty: Whether ``describe`` needs the uncertainty of the rewards.
        skip_invalid: List bad rows in ``<output>.invalid`` instead of stopping.
        rows_at_once: Rows between two journal entries.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: a row is invalid, unless ``skip_invalid``.
        ArmormError: the unfinished output belongs to another model, input or task.
    """
    started = time.perf_counter()
    files = _Files(output)
    journal = files.take_up(_Journal(f"{task}: {model.fingerprint()}", fingerprint(source)))
    resumed_at = journal.rows
    rows = itertools.islice(file_rows(source), resumed_at, None)
    total = count_rows(source)
    with (
        files.append(files.part, journal.output_bytes) as scored,
        files.append(files.invalid, journal.invalid_bytes) as invalid,
        progress_bar(task.split()[0], total, "rows", show_progress) as advance,
    ):
        advance(resumed_at)
        for chunk in chunks(rows, rows_at_once):
            lines, errors = score_chunk(model, chunk, encode, describe, skip_invalid, uncertainty)
            journal.output_bytes = _append(scored, lines)
            journal.invalid_bytes = _append(invalid, [error.as_dict() for error in errors])
            journal.rows += len(chunk)
            journal.scored += len(lines)
            journal.skipped += len(errors)
            write_json(files.journal, asdict(journal))
            advance(len(chunk))
    files.finish(keep_invalid=journal.skipped > 0)
    return ScoringSummary(
        rows=journal.rows,
        scored=journal.scored,
        skipped=journal.skipped,
        resumed_at=resumed_at,
        invalid_file=str(files.invalid) if journal.skipped else None,
        seconds=time.perf_counter() - started,
    )


class _Files:
    """The output and what stands beside it until it is whole."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.part = output.with_name(f"{output.name}.part")
        self.invalid = output.with_name(f"{output.name}.invalid")
        self.journal = output.with_name(f"{output.name}.progress.json")

    def take_up(self, fresh: _Journal) -> _Journal:
        """The journal of an interrupted run of the same model on the same input, or a new one."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if not self.journal.exists():
            return fresh
        found = _Journal(**read_json(self.journal))
        if (found.model, found.source) != (fresh.model, fresh.source):
            raise ArmormError(
                f"{self.part} is the unfinished output of another model or input, or of "
                f"another command. Delete "
                f"{self.journal} to start again."
            )
        return found

    def append(self, file: Path, certain_bytes: int) -> IO[bytes]:
        """Open for appending, without what was written after the last journal entry."""
        file.touch()
        opened = file.open("r+b")
        opened.truncate(certain_bytes)
        opened.seek(certain_bytes)
        return opened

    def finish(self, keep_invalid: bool) -> None:
        self.part.replace(self.output)
        self.journal.unlink(missing_ok=True)
        if not keep_invalid:
            self.invalid.unlink(missing_ok=True)


def score_chunk(
    model: RewardModel,
    chunk: list[RawRow],
    encode: Encode,
    describe: Describe,
    skip_invalid: bool,
    uncertainty: bool,
) -> tuple[list[dict[str, Any]], list[InputError]]:
    """Score some rows together; returns the output rows and the bad rows.

    Raises:
        InputError: the first bad row, unless ``skip_invalid``.
    """
    kept: list[Mapping[str, Any]] = []
    encoded: list[EncodedPrompt] = []
    errors: list[InputError] = []
    for raw in chunk:
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            encoded.append(encode(model, raw.fields))
            kept.append(raw.fields)
        except InputError as error:
            located = error.at(raw.file, raw.row)
            if not skip_invalid:
                raise located from None
            errors.append(located)
    if not kept:
        return [], errors
    rewards = model.score_encoded(encoded, uncertainty=uncertainty)
    per_row = rewards.split([len(one.sequences) for one in encoded])
    return [describe(row, mine) for row, mine in zip(kept, per_row, strict=True)], errors


def task_name(uncertainty: bool) -> str:
    """What ``armorm score`` does: an unfinished output of something else is not continued."""
    return "score with uncertainty" if uncertainty else "score"


def encode_conversation(model: RewardModel, row: Mapping[str, Any]) -> EncodedPrompt:
    """How ``armorm score`` reads a row."""
    if "messages" in row:
        prompt, response = located_in("messages", validate_conversation, row["messages"])
    elif "prompt" in row and "response" in row:
        prompt = located_in("prompt", validate_prompt, row["prompt"])
        response = located_in("response", validate_response, row["response"])
    else:
        raise InputError(
            "messages",
            None,
            f"missing; the row has {', '.join(row)}",
            "Add messages, or prompt and response.",
        )
    return encode_or_refuse(model, "messages", prompt, [response])


def describe_conversation(row: Mapping[str, Any], rewards: Rewards) -> dict[str, Any]:
    """What ``armorm score`` makes of a row."""
    return {**row, **rewards.as_dicts()[0]}


def encode_or_refuse(
    model: RewardModel, field: str, prompt: Conversation, responses: Sequence[str]
) -> EncodedPrompt:
    """The ids of a prompt with its responses.

    Raises:
        InputError: at ``field``, if one is longer than the model can read.
    """
    try:
        return model.backbone.encoder.encode(prompt, responses)
    except InputError as error:
        raise replace(error, field=field) from None


def write_lines(file: IO[bytes], rows: list[dict[str, Any]]) -> None:
    """Append rows as JSON lines."""
    for row in rows:
        file.write(json_line(row, default=str))


def _append(file: IO[bytes], rows: list[dict[str, Any]]) -> int:
    """Append JSON lines, make them certain, and return the size of the file."""
    write_lines(file, rows)
    file.flush()
    os.fsync(file.fileno())
    return file.tell()


def chunks(rows: Iterator[RawRow], size: int) -> Iterator[list[RawRow]]:
    """The rows that are scored together."""
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def fingerprint(source: Path) -> str:
    """What tells a file from another one, without reading it."""
    if not source.is_file():
        raise ArmormError(f"There is no file {str(source)!r}.")
    status = source.stat()
    return f"{source.name}, {status.st_size} bytes, modified {status.st_mtime_ns}"
