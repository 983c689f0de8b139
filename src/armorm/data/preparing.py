"""From a recipe's sources to Parquet files: streamed, without duplicates, split by prompt.

Every source becomes its own files, so an interrupted preparation goes on with the source it
stopped in::

    DIR/rated/train-00-helpsteer2.parquet      DIR/rated/held_out-00-helpsteer2.parquet
    DIR/preferences/train-00-shp.parquet       …
    DIR/left-out/preferences-00-shp.jsonl      every row left out: place, field, value, reason
    DIR/manifest.json                          counts, ratings, licences and hashes of the files
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from armorm.conversations import PreferencePair, RatedResponse
from armorm.conversations.messages import Tally, with_response
from armorm.data.reading import preference_rows, rated_rows, stops, weighted
from armorm.data.seen import DUPLICATE, SeenRows
from armorm.data.sources import DataSource, HeldOut, InvalidPolicy, Kind
from armorm.data.summary import RatingCounts
from armorm.errors import ArmormError, InputError, LeftOutError, RecipeError
from armorm.files import json_line, read_json, sha256_of_files, sha256_of_json, write_json
from armorm.objectives import ObjectiveSet
from armorm.progress import progress_bar

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Row = RatedResponse | PreferencePair

SPLITS = ("train", "held_out")
REPEATING = [
    "source",
    "split",
    "subset",
    "messages.list.element.role",
    "prompt.list.element.role",
]
"""Columns whose values repeat; in texts, looking for repetitions takes time for nothing."""

ROWS_AT_ONCE = 2048
CHARACTERS_AT_ONCE = 4_000_000
"""Rows are written when either is reached: memory stays flat whatever their length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What to prepare.

    Attributes:
        rated: Sources of rated responses.
        preferences: Sources of preference pairs.
        objectives: What may be rated; the rating columns of the output.
        held_out: Which prompts are held out; by hash, so that no prompt is on both sides.
        invalid: ``error`` stops at the first bad row; ``skip`` counts and lists them.
    """

    rated: tuple[DataSource, ...]
    preferences: tuple[DataSource, ...]
    objectives: ObjectiveSet
    held_out: HeldOut = field(default_factory=HeldOut)
    invalid: InvalidPolicy = "error"

    def fingerprint(self) -> str:
        """Tells one preparation from another.

        What is done about bad rows does not: a run that one of them stopped goes on when they
        are skipped.
        """
        return sha256_of_json(
            {
                "rated": [source.model_dump() for source in self.rated],
                "preferences": [source.model_dump() for source in self.preferences],
                "objectives": [objective.model_dump() for objective in self.objectives],
                "held_out": self.held_out.model_dump(),
            }
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """One source of one kind, and where its rows go."""

    kind: Kind
    position: int
    source: DataSource

    @property
    def number(self) -> int:
        """Unique among the jobs of a preparation."""
        return 2 * self.position + (self.kind == "preferences")

    @property
    def name(self) -> str:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", self.source.name).strip("-.")
        return f"{self.position:02d}-{safe}"

    def file(self, split: str) -> str:
        return f"{self.kind}/{split}-{self.name}.parquet"

    @property
    def left_out_file(self) -> str:
        return f"left-out/{self.kind}-{self.name}.jsonl"


def prepare(
    preparation: Preparation, output: str | Path, *, show_progress: bool = False
) -> dict[str, Any]:
    """Convert, validate, de-duplicate and split the rows of all sources.

    Memory does not grow with the number of rows.  An interrupted preparation goes on with the
    source it stopped in; a finished one is done anew.

    Args:
        preparation: What to do.
        output: Folder of the files; see the module.
        show_progress: Draw progress bars on standard error.

    Returns:
        The manifest, which is written last.

    Raises:
        RecipeError: the split is taken from a column.
        InputError: the first bad row, unless bad rows are skipped.
        ArmormError: a source cannot be read, or ``output`` holds another unfinished preparation.
    """
    if preparation.held_out.column is not None:
        raise RecipeError(
            "data.held_out.column: a preparation splits by prompt, so that no prompt is on both "
            "sides. Set data.held_out.fraction instead."
        )
    output = Path(output)
    started = time.perf_counter()
    journal = _Journal.take_up(output, preparation.fingerprint())
    output.mkdir(parents=True, exist_ok=True)
    with closing(SeenRows(output / ".seen.sqlite", journal.finished)) as seen:
        for job in _jobs(preparation):
            if job.number not in journal.finished:
                account = _prepare_source(job, preparation, output, seen, show_progress)
                seen.commit()
                journal.add(job, account)
    manifest = _manifest(preparation, journal, time.perf_counter() - started)
    write_json(output / "manifest.json", manifest)
    journal.remove()
    (output / ".seen.sqlite").unlink()
    return manifest


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
) -> dict[str, Any]:
    tally, counts = Tally(), RatingCounts()
    with ExitStack() as stack:
        advance = stack.enter_context(
            progress_bar(f"{job.kind} {job.source.name}", job.source.limit, "rows", show_progress)
        )
        files = {
            split: stack.enter_context(
                _RowFile(output / job.file(split), preparation.objectives, counts)
            )
            for split in SPLITS
        }
        left_out = stack.enter_context(_LeftOutFile(output / job.left_out_file))
        for row in _rows(job, preparation, tally):
            advance(1)
            if isinstance(row, InputError):
                if stops(row, preparation.invalid):
                    raise row
                left_out.add(row)
            elif not seen.add(row, job.number):
                tally.kept -= 1
                tally.skip(DUPLICATE)
                left_out.add(
                    LeftOutError("id", row.id, DUPLICATE, "The first one was kept.", row.source)
                )
            else:
                for copy in weighted(row, job.source, tally):
                    files["held_out" if copy.held_out else "train"].add(copy)
    return _account(job, tally, counts, {split: files[split].rows for split in SPLITS}, output)


def _rows(job: _Job, preparation: Preparation, tally: Tally) -> Iterator[Row | InputError]:
    if job.kind == "rated":
        return rated_rows(job.source, preparation.objectives, tally, held_out=preparation.held_out)
    return preference_rows(job.source, tally, held_out=preparation.held_out)


def _account(
    job: _Job, tally: Tally, counts: RatingCounts, rows: dict[str, int], output: Path
) -> dict[str, Any]:
    entry = job.source.entry
    described = {} if entry is None else {"hub_id": entry.hub_id, "licence": entry.licence}
    return {
        "kind": job.kind,
        "source": job.source.name,
        **described,
        "recipe": job.source.model_dump(mode="json", exclude_defaults=True),
        **tally.as_dict(),
        "rows": rows,
        "ratings": counts.as_dict(),
        "files": {
            job.file(split): {
                "rows": rows[split],
                "sha256": sha256_of_files([output / job.file(split)]),
            }
            for split in SPLITS
        },
        "left_out": job.left_out_file,
    }


def _manifest(preparation: Preparation, journal: _Journal, seconds: float) -> dict[str, Any]:
    sources = journal.accounts()
    totals = {
        kind: {
            split: sum(source["rows"][split] for source in sources if source["kind"] == kind)
            for split in SPLITS
        }
        for kind in ("rated", "preferences")
    }
    return {
        "armorm": version("armorm"),
        "fingerprint": preparation.fingerprint(),
        "objectives": list(preparation.objectives.names),
        "held_out": preparation.held_out.model_dump(mode="json"),
        "totals": totals,
        "sources": sources,
        "seconds": seconds,
    }


class _Journal:
    """Which sources are done, and what came of them; gone once the manifest stands."""

    def __init__(self, file: Path, fingerprint: str, accounts: dict[str, Any]) -> None:
        self._file = file
        self._fingerprint = fingerprint
        self._accounts = accounts

    @classmethod
    def take_up(cls, output: Path, fingerprint: str) -> _Journal:
        """The journal of an interrupted preparation of the same sources, or a new one."""
        file = output / ".progress.json"
        if not file.exists():
            _clear(output)
            return cls(file, fingerprint, {})
        found = read_json(file)
        if found["fingerprint"] != fingerprint:
            raise ArmormError(
                f"{output} holds an unfinished preparation of other sources. Give the same recipe "
                f"again, choose another folder, or delete {file}."
            )
        return cls(file, fingerprint, found["accounts"])

    @property
    def finished(self) -> set[int]:
        """Numbers of the finished jobs."""
        return {int(number) for number in self._accounts}

    def add(self, job: _Job, account: dict[str, Any]) -> None:
        self._accounts[str(job.number)] = account
        write_json(self._file, {"fingerprint": self._fingerprint, "accounts": self._accounts})

    def accounts(self) -> list[dict[str, Any]]:
        """Rated sources first, in the order of the recipe."""
        in_order = sorted(self._accounts.items(), key=lambda item: (int(item[0]) % 2, int(item[0])))
        return [account for _, account in in_order]

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def _clear(output: Path) -> None:
    """Take away what an earlier, finished preparation left, its manifest first."""
    manifest = output / "manifest.json"
    if manifest.exists():
        sources = read_json(manifest)["sources"]
        manifest.unlink()
        for source in sources:
            for file in (*source["files"], source["left_out"]):
                (output / file).unlink(missing_ok=True)
    (output / ".seen.sqlite").unlink(missing_ok=True)


class _RowFile:
    """A Parquet file that appears under its name when it is whole."""

    def __init__(self, file: Path, objectives: ObjectiveSet, counts: RatingCounts) -> None:
        self.rows = 0
        self._counts = counts
        self._file = file
        self._temporary = file.with_name(f".{file.name}.tmp")
        self._split = file.name.split("-")[0]
        self._objectives = objectives
        self._rated = file.parent.name == "rated"
        self._waiting: list[Any] = []
        self._characters = 0

    def __enter__(self) -> _RowFile:
        import pyarrow.parquet as pq

        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._schema = _schema(self._rated, self._objectives)
        self._writer: pq.ParquetWriter = pq.ParquetWriter(
            self._temporary,
            self._schema,
            compression="zstd",
            use_dictionary=REPEATING,
        )
        return self

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        self.rows += 1
        self._characters += len(row.responses[0]) + len(row.prompt[-1]["content"])
        if len(self._waiting) >= ROWS_AT_ONCE or self._characters >= CHARACTERS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        columns = (
            _rated_columns(self._waiting, self._objectives)
            if self._rated
            else _preference_columns(self._waiting)
        )
        if self._rated:
            for name in self._objectives.names:
                self._counts.add(name, columns[name])
        columns["split"] = [self._split] * len(self._waiting)
        self._writer.write_table(_table(columns, self._schema))
        self._waiting.clear()
        self._characters = 0

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is None and self._waiting:
            self._write()
        self._writer.close()
        if failure is None:
            _keep(self._temporary, self._file)
        else:
            self._temporary.unlink(missing_ok=True)


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


def _rated_columns(rows: list[RatedResponse], objectives: ObjectiveSet) -> dict[str, list[Any]]:
    return {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "messages": [with_response(row.prompt, row.response) for row in rows],
        **{name: [row.ratings.get(name) for row in rows] for name in objectives.names},
    }


def _preference_columns(rows: list[PreferencePair]) -> dict[str, list[Any]]:
    return {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "prompt": [row.prompt for row in rows],
        "chosen": [row.chosen for row in rows],
        "rejected": [row.rejected for row in rows],
        "subset": [row.subset for row in rows],
    }


def _table(columns: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pydict(columns, schema=schema)


class _LeftOutFile:
    """The rows left out, as JSON lines; it appears under its name when it is whole."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._temporary = file.with_name(f".{file.name}.tmp")

    def __enter__(self) -> _LeftOutFile:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._lines: IO[bytes] = self._temporary.open("wb")
        return self

    def add(self, error: InputError) -> None:
        self._lines.write(json_line(error.as_dict()))

    def __exit__(self, failure: object, *_: object) -> None:
        self._lines.close()
        if failure is None:
            _keep(self._temporary, self._file)
        else:
            self._temporary.unlink(missing_ok=True)


def _keep(temporary: Path, file: Path) -> None:
    """Give a whole file its name, once its content is certain to be on disk."""
    with temporary.open("rb+") as content:
        os.fsync(content.fileno())
    temporary.replace(file)
