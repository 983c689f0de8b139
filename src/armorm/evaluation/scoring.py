"""Files of rows in, files of scored rows out: in this process or by workers on Ray, resumable."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from armorm.conversations import (
    Conversation,
    ConversationEncoder,
    EncodedPrompt,
    located_in,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.data.ranges import FileRange, cut_file, range_rows
from armorm.data.sources import count_rows, file_rows, matching_files
from armorm.data.tables import RawRow
from armorm.errors import ArmormError, InputError
from armorm.files import exclusive, json_line, sha256_of
from armorm.jobs.parts import PartRecord, PartsFolder
from armorm.jobs.pools import Task, Workers, ray_pool
from armorm.model import RewardModel, Rewards, Risk, Steering, SteeringProfile
from armorm.progress import Advance, progress_bar

ROWS_AT_ONCE = 256
"""Rows that are scored together, and that a killed run loses at most."""


class RowWork(ABC):
    """Work on each row of a file; a frozen dataclass whose fields are its settings."""

    name: ClassVar[str]
    """Name in the progress bar."""

    uncertainty: bool = False
    """Whether :meth:`describe` needs the uncertainty of the rewards."""

    risk: Risk | None = None
    """Price of the uncertainty, for :meth:`describe` to find in the rewards."""

    def check(self, model: RewardModel) -> None:  # noqa: B027 (most works have nothing to check)
        """Check the settings against the model, before any row is read.

        Raises:
            RecipeError: The model has not what a setting names.
        """

    @abstractmethod
    def encode(self, encoder: ConversationEncoder, row: Mapping[str, Any]) -> EncodedPrompt:
        """Return the ids of the row's prompt with all responses to be scored.

        Raises:
            InputError: The row cannot be read, or is too long.
        """

    @abstractmethod
    def describe(self, row: Mapping[str, Any], rewards: Rewards) -> dict[str, Any]:
        """Return the output row, made from the input row and the scores of its responses."""


@dataclass(frozen=True, slots=True)
class ScoreConversations(RowWork):
    """Score the conversation of each row; see :func:`score_file`."""

    name: ClassVar[str] = "score"
    uncertainty: bool = False

    def encode(self, encoder: ConversationEncoder, row: Mapping[str, Any]) -> EncodedPrompt:
        """Read ``messages``, or ``prompt`` and ``response``."""
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
        return encode_at("messages", encoder, prompt, [response])

    def describe(self, row: Mapping[str, Any], rewards: Rewards) -> dict[str, Any]:
        """Return the row with ``score``, ``rewards``, ``gating`` and ``coefficients``."""
        return {**row, **rewards.as_dicts()[0]}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The model that each worker loads.

    Attributes:
        name: Folder or hub id.
        options: Arguments of :meth:`armorm.RewardModel.from_pretrained`.
        steer: Steering, or a profile or its name.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steer: Steering | SteeringProfile | str | None = None

    def load(self) -> RewardModel:
        """Load the model, steered."""
        return RewardModel.from_pretrained(self.name, **self.options).steer_by(self.steer)


@dataclass(frozen=True, slots=True)
class ScoringSummary:
    """Counts of a file that was scored.

    Attributes:
        rows: Input rows read, rows of an interrupted run included.
        scored: Rows written to the output.
        skipped: Invalid or too long rows, listed in ``invalid_file``.
        resumed_at: Rows that an interrupted run had already done.
        invalid_file: List of the skipped rows; ``None`` if there were none.
        seconds: Time of this run.
    """

    rows: int
    scored: int
    skipped: int
    resumed_at: int
    invalid_file: str | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-ready."""
        return asdict(self)


def score_file(
    model: RewardModel | ModelSettings,
    source: str | Path,
    output: Path,
    *,
    uncertainty: bool = False,
    **options: Any,
) -> ScoringSummary:
    """Score every conversation of a file.

    Rows hold ``messages``, or ``prompt`` and ``response``; each is written to ``output`` as it
    came, with ``score``, ``rewards``, ``gating`` and ``coefficients`` added, and on request
    ``deviations``, ``score_deviation``, ``novelty`` and ``novel``.

    Args:
        model: The reward model.
        source: JSON lines (also .gz), Parquet or Arrow, or a pattern for several files.
        output: JSON lines.
        uncertainty: Add the uncertainty of the rewards.
        **options: See :func:`process_rows`.

    Raises:
        InputError: A row is invalid, unless ``skip_invalid``.
        ArmormError: The unfinished output belongs to another model or input, or ``uncertainty``
            is asked of a model that has none.
    """
    return process_rows(ScoreConversations(uncertainty), model, source, output, **options)


def process_rows(
    work: RowWork,
    model: RewardModel | ModelSettings,
    source: str | Path,
    output: Path,
    *,
    workers: Workers | None = None,
    skip_invalid: bool = False,
    rows_at_once: int = ROWS_AT_ONCE,
    show_progress: bool = False,
) -> ScoringSummary:
    """Turn each row of the input into an output row; a killed run is continued by the same call.

    The output appears under its name when it is complete.  Until then its parts stand in
    ``<output>.parts``, and the output is locked.  Rows of one part that share a prompt compute it
    once.  The bytes of the output are the same in one process and on Ray.

    Args:
        work: What becomes of a row.
        model: The reward model; on Ray, how each worker loads it.
        source: JSON lines (also .gz), Parquet or Arrow, or a pattern for several files, whose
            rows follow each other in the output.
        output: JSON lines.
        workers: Workers on Ray; ``None`` works in this process. Input and output must then be on
            a disk that all workers see under the same name.
        skip_invalid: List bad rows in ``<output>.invalid`` instead of stopping.
        rows_at_once: Rows of one part.
        show_progress: Show progress on standard error.

    Raises:
        InputError: A row is invalid, unless ``skip_invalid``.
        RecipeError: There is no such input, or its format cannot be shared among workers.
        OutputError: The output cannot be written, or is the input.
        ArmormError: The unfinished output belongs to another model, input or command, or another
            process is writing it.
    """
    started = time.perf_counter()
    files = [Path(source)] if Path(source).is_file() else matching_files(str(source))
    folder = PartsFolder(output)
    with exclusive(output, work.name):
        run = _Run(work, folder, files, _contents(files), skip_invalid, rows_at_once, show_progress)
        try:
            records, resumed_at = (
                run.in_this_process(model) if workers is None else run.on_ray(model, workers)
            )
        except BaseException:
            folder.remove_if_empty()
            raise
        run.check_unchanged()
        folder.finish(records)
    skipped = sum(len(record.invalid) for record in records)
    return ScoringSummary(
        rows=sum(record.rows for record in records),
        scored=sum(record.written for record in records),
        skipped=skipped,
        resumed_at=resumed_at,
        invalid_file=str(folder.invalid) if skipped else None,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of :func:`process_rows`."""

    work: RowWork
    folder: PartsFolder
    files: list[Path]
    contents: list[list[str | None]]
    skip_invalid: bool
    rows_at_once: int
    show_progress: bool

    def in_this_process(self, model: RewardModel | ModelSettings) -> tuple[list[PartRecord], int]:
        """Make the missing parts here; return all records, and the rows that were done before."""
        if isinstance(model, ModelSettings):
            model = model.load()
        self.work.check(model)
        self.folder.start(self._manifest(model.fingerprint()), self.files)
        records: list[PartRecord] = []
        resumed_at = 0
        counts = [count_rows(file) for file in self.files]
        total = None if None in counts else sum(filter(None, counts))
        with self._progress(total) as advance:
            rows = (chunk for file in self.files for chunk in self._chunks(file_rows(file)))
            for number, chunk in enumerate(rows):
                record = self._done(number)
                if record is None:
                    record = self.make_part(number, chunk, model, advance)
                else:
                    resumed_at += record.rows
                    advance(record.rows)
                records.append(record)
        return records, resumed_at

    def on_ray(
        self, model: RewardModel | ModelSettings, workers: Workers
    ) -> tuple[list[PartRecord], int]:
        """Have workers make the missing parts."""
        if not isinstance(model, ModelSettings):
            raise ArmormError("Workers load the model themselves: pass ModelSettings.")
        ranges = [part for file in self.files for part in cut_file(file, self.rows_at_once)]
        settings: dict[str, Any] = {
            "model": model,
            "work": self.work,
            "output": str(self.folder.output.absolute()),
            "skip_invalid": self.skip_invalid,
            "rows_at_once": self.rows_at_once,
        }
        with ray_pool(workers) as pool, self._progress(sum(r.rows for r in ranges)) as advance:
            settings["manifest"] = self._manifest(pool.describe(RowJob, settings)["model"])
            self.folder.start(settings["manifest"], self.files)
            records = {i: self._done(i) for i in range(len(ranges))}
            resumed_at = sum(record.rows for record in records.values() if record is not None)
            advance(resumed_at)
            tasks = [
                {"number": i, "range": list(ranges[i])}
                for i, record in records.items()
                if record is None
            ]
            for made in pool.work(RowJob, settings, tasks):
                records[made["number"]] = record = PartRecord(**made["record"])
                advance(record.rows)
        return [record for record in records.values() if record is not None], resumed_at

    def check_unchanged(self) -> None:
        """Check that the input still is what the manifest says.

        Raises:
            ArmormError: It changed while it was read; the parts, which may mix both, are removed.
        """
        if _contents(self.files) != self.contents:
            self.folder.remove()
            names = ", ".join(map(str, self.files))
            raise ArmormError(
                f"The input ({names}) changed while it was read, so nothing was written. Give the "
                "same command again when it no longer changes."
            )

    def make_part(
        self, number: int, chunk: list[RawRow], model: RewardModel, advance: Advance | None = None
    ) -> PartRecord:
        """Score some rows together and write them.

        Raises:
            InputError: The first bad row, unless bad rows are skipped.
        """
        lines, errors = score_chunk(self.work, chunk, model, advance)
        if errors and not self.skip_invalid:
            raise errors[0]
        return self.folder.write(number, lines, [error.as_dict() for error in errors])

    def _done(self, number: int) -> PartRecord | None:
        """Return the record of a part of an interrupted run, unless its bad rows now stop."""
        record = self.folder.record(number)
        bad = record is not None and record.invalid and not self.skip_invalid
        return None if bad else record

    def _manifest(self, model: str) -> dict[str, Any]:
        settings: dict[str, Any] = asdict(self.work)  # type: ignore[call-overload]
        if self.work.risk is not None:
            settings["risk"] = self.work.risk.as_dict()
        return {
            "work": type(self.work).__name__,
            **settings,
            "model": model,
            "sources": self.contents,
            "rows_at_once": self.rows_at_once,
        }

    def _chunks(self, rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
        while chunk := list(itertools.islice(rows, self.rows_at_once)):
            yield chunk

    def _progress(self, total: float | None) -> Any:
        return progress_bar(self.work.name, total, "rows", self.show_progress)


class RowJob:
    """Worker of the pool: reads, scores and writes parts of an output that the driver started."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._model: RewardModel = settings["model"].load()

    def describe(self) -> dict[str, Any]:
        """Return the fingerprint of the model, after the check of the settings against it."""
        with closing(self._model.backbone):
            self._settings["work"].check(self._model)
            return {"model": self._model.fingerprint()}

    def make(self, task: Task) -> dict[str, Any]:
        """Score the rows of one range."""
        settings = self._settings
        folder = PartsFolder(Path(settings["output"]))
        folder.join_in(settings["manifest"])
        skip_invalid, rows_at_once = settings["skip_invalid"], settings["rows_at_once"]
        run = _Run(settings["work"], folder, [], [], skip_invalid, rows_at_once, False)
        rows = list(range_rows(FileRange(*task["range"])))
        record = run.make_part(task["number"], rows, self._model)
        return {"number": task["number"], "record": asdict(record)}


def _contents(files: Sequence[Path]) -> list[list[str | None]]:
    return [[file.name, sha256_of(file)] for file in files]


def score_chunk(
    work: RowWork, chunk: Sequence[RawRow], model: RewardModel, advance: Advance | None = None
) -> tuple[list[bytes], list[InputError]]:
    """Score some rows together; return the output lines and the errors of bad rows, in order.

    A row is bad if it cannot be read or encoded, if a score of it is not finite, or if it holds a
    value that JSON cannot.
    """
    errors: dict[int, InputError] = {}
    encoded: dict[int, EncodedPrompt] = {}
    for place, raw in enumerate(chunk):
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            encoded[place] = work.encode(model.backbone.encoder, raw.fields)
        except InputError as error:
            errors[place] = error.at(raw.file, raw.row)
    lines: dict[int, bytes] = {}
    scores = _rewards(model, list(encoded.values()), work, len(chunk), advance)
    for place, rewards in zip(encoded, scores, strict=True):
        raw = chunk[place]
        assert not isinstance(raw.fields, InputError)
        try:
            if not bool(rewards.finite.all()):
                raise InputError(
                    "score",
                    rewards.score.tolist(),
                    "not finite, since the model's hidden states overflow",
                    "Load the model in float32 or bfloat16.",
                )
            lines[place] = json_line(work.describe(raw.fields, rewards), default=str)
        except InputError as error:
            errors[place] = error.at(raw.file, raw.row)
    return list(lines.values()), [errors[place] for place in sorted(errors)]


def _rewards(
    model: RewardModel,
    encoded: Sequence[EncodedPrompt],
    work: RowWork,
    rows: int,
    advance: Advance | None,
) -> list[Rewards]:
    """Return the scores of each prompt's responses; ``advance`` is told of ``rows`` in all."""

    def advance_rows(amount: float, tokens: float = 0.0) -> None:
        if advance is not None:
            advance(amount * rows, tokens)

    if not encoded:
        advance_rows(1.0)
        return []
    rewards = model.score_encoded(
        encoded,
        uncertainty=work.uncertainty,
        risk=work.risk,
        keep_nonfinite=True,
        advance=advance_rows,
    )
    return rewards.split([len(one.sequences) for one in encoded])


def encode_at(
    field_name: str, encoder: ConversationEncoder, prompt: Conversation, responses: Sequence[str]
) -> EncodedPrompt:
    """Return the ids of a prompt with its responses; an error names the field.

    Raises:
        InputError: A conversation is too long, or the chat template refuses it.
    """
    try:
        return encoder.encode(prompt, responses)
    except InputError as error:
        raise replace(error, field=field_name) from None
