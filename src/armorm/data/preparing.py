"""Preparation of a recipe's sources: streamed to Parquet, without duplicates, split by prompt.

Every source becomes its own files, so an interrupted preparation resumes at the source it stopped
in::

    DIR/rated/train-00-helpsteer2.parquet      DIR/rated/held_out-00-helpsteer2.parquet
    DIR/preferences/train-00-shp.parquet       …
    DIR/left-out/preferences-00-shp.jsonl      every skipped row: place, field, value, reason
    DIR/manifest.json                          counts, ratings, licences and hashes of the files
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armorm.conversations import PreferencePair, RatedResponse
from armorm.conversations.messages import Tally, with_response
from armorm.data.catalog import Kind
from armorm.data.reading import preference_rows, rated_rows, stops, weighted
from armorm.data.seen import DUPLICATE, SeenRows
from armorm.data.sources import DataSource, HeldOut, InvalidPolicy, check_space
from armorm.data.summary import RatingCounts
from armorm.errors import (
    ArmormError,
    DamagedFileError,
    InputError,
    OutputError,
    RecipeError,
    SkippedRowError,
)
from armorm.files import (
    exclusive,
    json_line,
    open_atomically,
    read_json,
    refuse_same_file,
    sha256_of,
    sha256_of_files,
    sha256_of_json,
    write_json,
    writing,
)
from armorm.objectives import ObjectiveSet
from armorm.progress import progress_bar

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Row = RatedResponse | PreferencePair

SPLITS = ("train", "held_out")
FOLDERS = ("rated", "preferences", "left-out")
REPEATING = [
    "source",
    "split",
    "subset",
    "messages.list.element.role",
    "prompt.list.element.role",
]
"""Columns whose values repeat; a dictionary of texts would cost time and save nothing."""

ROWS_AT_ONCE = 2048
CHARACTERS_AT_ONCE = 4_000_000
"""Rows are written when either is reached: memory stays flat whatever their length."""

OUR_NAMES = re.compile(r"(train|held_out)-\d{2,}-.*\.parquet|(rated|preferences)-\d{2,}-.*\.jsonl")
"""Names of the files that a preparation writes, and an earlier one has left."""

LONGEST_NAME = 100
"""Characters of a source's name that a file name keeps, the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Sources to prepare, and the rules.

    Attributes:
        rated: Sources of rated responses.
        preferences: Sources of preference pairs.
        objectives: Objectives that may be rated; the rating columns of the output.
        held_out: Prompts to hold out; by hash, so that no prompt is on both sides.
        invalid: ``error`` stops at the first bad row; ``skip`` counts and lists them.
    """

    rated: tuple[DataSource, ...]
    preferences: tuple[DataSource, ...]
    objectives: ObjectiveSet
    held_out: HeldOut = field(default_factory=HeldOut)
    invalid: InvalidPolicy = "error"

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Sources of both kinds."""
        return (*self.rated, *self.preferences)

    def fingerprint(self) -> str:
        """Return a hash of everything that shapes the files.

        The treatment of bad rows does not: a run that one of them stopped resumes when they are
        skipped.
        """
        return sha256_of_json(
            {
                "rated": [source.model_dump() for source in self.rated],
                "preferences": [source.model_dump() for source in self.preferences],
                "objectives": [objective.model_dump() for objective in self.objectives],
                "held_out": self.held_out.model_dump(),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSource:
    """Account of one prepared source.

    Attributes:
        kind: Kind of its rows.
        source: Name of the source.
        hub_id: Its id on the hub, of a dataset of the catalogue.
        licence: Its licence; None where none is stated.
        recipe: The source as the recipe names it.
        read: Rows read.
        kept: Rows kept, repetitions by weight included.
        skipped: Rows skipped, by reason.
        notes: Values repaired, by rule.
        rows: Rows by side of the split.
        ratings: Number, mean and histogram of the ratings, by objective.
        files: Rows and hash of each file.
        left_out: File that lists the skipped rows.
        inputs: Hash of each local file that was read.
    """

    kind: Kind
    source: str
    hub_id: str | None
    licence: str | None
    recipe: dict[str, Any]
    read: int
    kept: int
    skipped: dict[str, int]
    notes: dict[str, int]
    rows: dict[str, int]
    ratings: dict[str, dict[str, Any]]
    files: dict[str, dict[str, Any]]
    left_out: str
    inputs: dict[str, str]

    @property
    def is_current(self) -> bool:
        """Return true if the files that were read are unchanged, or gone."""
        hashes = {file: sha256_of(Path(file)) for file in self.inputs}
        return all(hashes[file] in (None, digest) for file, digest in self.inputs.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Account of a preparation, written as ``manifest.json``.

    Attributes:
        armorm: Version of this package.
        fingerprint: See :meth:`Preparation.fingerprint`.
        objectives: Names of the rating columns.
        held_out: The split.
        totals: Rows by kind and side of the split.
        sources: Account of each source, rated ones first.
        seconds: Duration of the last run.
    """

    armorm: str
    fingerprint: str
    objectives: tuple[str, ...]
    held_out: dict[str, Any]
    totals: dict[str, dict[str, int]]
    sources: tuple[PreparedSource, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON-ready values."""
        sources = [asdict(source) for source in self.sources]
        return {**asdict(self), "objectives": list(self.objectives), "sources": sources}


@dataclass(frozen=True, slots=True)
class _Job:
    """One source of one kind, and the files that its rows go to."""

    kind: Kind
    position: int
    source: DataSource

    @property
    def number(self) -> int:
        """Number that is unique among the jobs of a preparation."""
        return 2 * self.position + (self.kind == "preferences")

    @property
    def name(self) -> str:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", self.source.name).strip("-.")
        return f"{self.position:02d}-{safe[-LONGEST_NAME:]}"

    def file(self, split: str) -> str:
        return f"{self.kind}/{split}-{self.name}.parquet"

    @property
    def left_out_file(self) -> str:
        return f"left-out/{self.kind}-{self.name}.jsonl"


def prepare(
    preparation: Preparation, output: str | Path, *, show_progress: bool = False
) -> Manifest:
    """Convert, validate, de-duplicate and split sources into Parquet files.

    An interrupted preparation of the same sources resumes at the source it stopped in, if the
    files read so far are unchanged, and starts again otherwise; a finished one starts again.

    Args:
        preparation: The sources and rules.
        output: Folder of the files; see the module.
        show_progress: Draw progress bars on standard error.

    Returns:
        The manifest, whose file is written last.

    Raises:
        RecipeError: The split is taken from a column, or rows are repeated until the disk is full.
        InputError: A row is bad, and bad rows are not skipped.
        OutputError: ``output`` cannot be written, or holds a source.
        ArmormError: A source cannot be read, or ``output`` holds another unfinished preparation,
            or another process writes there.
    """
    if preparation.held_out.column is not None:
        raise RecipeError(
            "data.held_out.column: a preparation splits by prompt, so that no prompt is on both "
            "sides. Set data.held_out.fraction instead."
        )
    output = Path(output)
    started = time.perf_counter()
    with exclusive(output, "preparing data"), writing(output):
        for folder in FOLDERS:
            (output / folder).mkdir(parents=True, exist_ok=True)
        _check_inputs(preparation, output)
        journal = _Journal.resume(output, preparation.fingerprint())
        with closing(SeenRows(journal.seen, journal.accounts)) as seen:
            for job in _jobs(preparation):
                if job.number not in journal.accounts:
                    account = _prepare_source(job, preparation, output, seen, show_progress)
                    seen.commit()
                    journal.add(job, account)
        manifest = _manifest(preparation, journal, time.perf_counter() - started)
        write_json(output / "manifest.json", manifest.as_dict())
        journal.remove()
    return manifest


def _check_inputs(preparation: Preparation, output: Path) -> None:
    check_space(preparation.sources, output)
    written = {(output / folder).resolve() for folder in FOLDERS}
    for source in preparation.sources:
        for file in source.local_files():
            if written.intersection(file.resolve().parents):
                refuse_same_file(file, file)


def _jobs(preparation: Preparation) -> list[_Job]:
    kinds: list[tuple[Kind, Sequence[DataSource]]] = [
        ("rated", preparation.rated),
        ("preferences", preparation.preferences),
    ]
    return [
        _Job(kind, position, source)
        for kind, sources in kinds
        for position, source in enumerate(sources)
    ]


def _prepare_source(
    job: _Job, preparation: Preparation, output: Path, seen: SeenRows, show_progress: bool
) -> PreparedSource:
    inputs = {str(file): sha256_of(file) or "" for file in job.source.local_files()}
    tally, counts = Tally(), RatingCounts()
    with ExitStack() as stack:
        advance = stack.enter_context(
            progress_bar(f"{job.kind} {job.source.name}", job.source.limit, "rows", show_progress)
        )
        files = {
            split: stack.enter_context(
                _row_writer(output / job.file(split), split, preparation.objectives, counts)
            )
            for split in SPLITS
        }
        skipped = stack.enter_context(open_atomically(output / job.left_out_file))
        for row in _rows(job, preparation, tally):
            advance(1)
            if isinstance(row, InputError):
                if stops(row, preparation.invalid):
                    raise row
                skipped.write(json_line(row.as_dict()))
            elif not seen.add(row, job.number):
                tally.kept -= 1
                tally.skip(DUPLICATE)
                duplicate = SkippedRowError(
                    "id", row.id, DUPLICATE, "The first is kept.", row.source
                )
                skipped.write(json_line(duplicate.as_dict()))
            else:
                for copy in weighted(row, job.source, tally):
                    files["held_out" if copy.held_out else "train"].add(copy)
    entry = job.source.entry
    rows = {split: files[split].rows for split in SPLITS}
    return PreparedSource(
        kind=job.kind,
        source=job.source.name,
        hub_id=None if entry is None else entry.hub_id,
        licence=job.source.licence or (None if entry is None else entry.licence),
        recipe=job.source.model_dump(mode="json", exclude_defaults=True),
        read=tally.read,
        kept=tally.kept,
        skipped=dict(sorted(tally.skipped.items())),
        notes=dict(sorted(tally.notes.items())),
        rows=rows,
        ratings=counts.as_dict(),
        files={
            job.file(split): {
                "rows": rows[split],
                "sha256": sha256_of_files([output / job.file(split)]),
            }
            for split in SPLITS
        },
        left_out=job.left_out_file,
        inputs=inputs,
    )


def _rows(job: _Job, preparation: Preparation, tally: Tally) -> Iterator[Row | InputError]:
    if job.kind == "rated":
        return rated_rows(job.source, preparation.objectives, tally, held_out=preparation.held_out)
    return preference_rows(job.source, tally, held_out=preparation.held_out)


def _manifest(preparation: Preparation, journal: _Journal, seconds: float) -> Manifest:
    accounts = journal.accounts
    sources = tuple(accounts[job.number] for job in _jobs(preparation))
    totals = {
        kind: {
            split: sum(source.rows[split] for source in sources if source.kind == kind)
            for split in SPLITS
        }
        for kind in ("rated", "preferences")
    }
    return Manifest(
        armorm=version("armorm"),
        fingerprint=preparation.fingerprint(),
        objectives=preparation.objectives.names,
        held_out=preparation.held_out.model_dump(mode="json"),
        totals=totals,
        sources=sources,
        seconds=seconds,
    )


class _Journal:
    """Accounts of the sources that are done, by number of the job, until the manifest stands."""

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.seen = output / ".seen.sqlite"
        self.accounts: dict[int, PreparedSource] = {}
        self._file = output / ".progress.json"
        self._fingerprint = fingerprint

    @classmethod
    def resume(cls, output: Path, fingerprint: str) -> _Journal:
        """Return the journal of an interrupted preparation of the same sources, or a new one."""
        journal = cls(output, fingerprint)
        try:
            journal._read()
        except FileNotFoundError:
            pass
        except (DamagedFileError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArmormError(
                f"{journal._file} is damaged ({error}). Delete it, and all starts again."
            ) from error
        current = all(account.is_current for account in journal.accounts.values())
        if not journal.accounts or not journal.seen.exists() or not current:
            journal.accounts.clear()
            _clear(output)
        for folder in FOLDERS:  # files that a killed process was writing
            for leftover in (output / folder).glob(".*.tmp"):
                leftover.unlink()
        return journal

    def _read(self) -> None:
        found = read_json(self._file)
        if found["fingerprint"] != self._fingerprint:
            raise ArmormError(
                f"{self._file.parent} holds an unfinished preparation of other sources. Give the "
                f"same recipe again, choose another folder, or delete {self._file}."
            )
        for number, account in found["accounts"].items():
            self.accounts[int(number)] = PreparedSource(**account)

    def add(self, job: _Job, account: PreparedSource) -> None:
        """Record that a source is done."""
        self.accounts[job.number] = account
        accounts = {str(number): asdict(done) for number, done in self.accounts.items()}
        write_json(self._file, {"fingerprint": self._fingerprint, "accounts": accounts})

    def remove(self) -> None:
        """Delete the files of the journal."""
        self._file.unlink(missing_ok=True)
        self.seen.unlink(missing_ok=True)


def _clear(output: Path) -> None:
    """Delete what an earlier preparation left, its manifest first."""
    for name in ("manifest.json", ".progress.json", ".seen.sqlite"):
        (output / name).unlink(missing_ok=True)
    for folder in FOLDERS:
        for file in (output / folder).iterdir():
            if OUR_NAMES.fullmatch(file.name):
                file.unlink()
            elif not file.name.startswith("."):
                raise OutputError(
                    f"{file} is not of a preparation, and would be read with its files. Choose "
                    "another output, or move it away."
                )


@contextmanager
def _row_writer(
    file: Path, split: str, objectives: ObjectiveSet, counts: RatingCounts
) -> Iterator[_RowWriter]:
    """Write a Parquet file that gets its name when it is whole."""
    import pyarrow.parquet as pq

    schema = _schema(file.parent.name == "rated", objectives)
    with (
        open_atomically(file) as content,
        pq.ParquetWriter(content, schema, compression="zstd", use_dictionary=REPEATING) as parquet,
    ):
        writer = _RowWriter(parquet, split, objectives, counts)
        yield writer
        writer.flush()


@dataclass
class _RowWriter:
    """Rows of one side of the split, written in groups."""

    parquet: pq.ParquetWriter
    split: str
    objectives: ObjectiveSet
    counts: RatingCounts
    rows: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list)
    characters: int = 0

    def add(self, row: Row) -> None:
        if isinstance(row, RatedResponse):
            messages = with_response(row.prompt, row.response)
            record = {"id": row.id, "source": row.source, "messages": messages, **row.ratings}
        else:
            record = row.as_record()
        self.waiting.append({**record, "split": self.split})
        self.rows += 1
        self.characters += len(row.responses[0]) + len(row.prompt[-1]["content"])
        if len(self.waiting) >= ROWS_AT_ONCE or self.characters >= CHARACTERS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        import pyarrow as pa

        if not self.waiting:
            return
        schema = self.parquet.schema
        table = pa.Table.from_pylist(self.waiting, schema=schema)
        for name in self.objectives.names if "messages" in schema.names else ():
            self.counts.add(name, table[name].to_pylist())
        self.parquet.write_table(table)
        self.waiting.clear()
        self.characters = 0


def _schema(rated: bool, objectives: ObjectiveSet) -> pa.Schema:
    import pyarrow as pa

    text, messages = (
        pa.string(),
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    )
    content = (
        [("messages", messages), *((name, pa.float64()) for name in objectives.names)]
        if rated
        else [("prompt", messages), ("chosen", text), ("rejected", text), ("subset", text)]
    )
    return pa.schema([("id", text), ("source", text), *content, ("split", text)])
