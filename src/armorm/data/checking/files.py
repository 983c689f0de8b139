"""Checks of data files: invalid rows, duplicates, leaks, benchmark contamination."""

from __future__ import annotations

import glob
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from armorm.conversations import Conversation, PreferencePair, RatedResponse, prompt_key
from armorm.conversations.messages import Tally
from armorm.data.catalog import CatalogEntry, Kind, catalog
from armorm.data.checking.overlap import KnownTexts, Prompts
from armorm.data.checking.report import (
    MOST_EXAMPLES,
    CheckReport,
    Contamination,
    FileReport,
    Findings,
    Lengths,
    PromptReport,
)
from armorm.data.reading import preference_rows, rated_rows
from armorm.data.seen import DUPLICATE, SeenRows, database_errors
from armorm.data.sources import DataSource, HeldOut, count_rows, file_rows
from armorm.data.summary import RatingCounts
from armorm.errors import InputError, RecipeError, did_you_mean
from armorm.objectives import PAPER_OBJECTIVES, Objective, ObjectiveSet
from armorm.progress import progress_bar

Row = RatedResponse | PreferencePair

NAMES_FROM = 1000
"""Rows that the names of a file's own objectives are taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Options of a check.

    Attributes:
        against: Benchmarks of the catalogue, or files, that the data must not contain.
        overlap: Share of a benchmark text's runs of eight words from which it counts as found.
        near_duplicates: Look for prompts that are nearly the same.
        similarity: Smallest similarity of prompts that are nearly the same.
        objectives: Objectives that may be rated.  Default: the paper's with their scales, and
            any other that a file rates, any finite number.
        root: Folder to read benchmarks from, laid out as on the hub, instead of the hub.
    """

    against: tuple[str, ...] = ()
    overlap: float = 0.5
    near_duplicates: bool = True
    similarity: float = 0.8
    objectives: ObjectiveSet | None = None
    root: Path | None = None


def check_files(
    files: Iterable[Path], options: CheckOptions, *, show_progress: bool = False
) -> CheckReport:
    """Check rated responses and preference pairs in files.

    All files are checked together: a duplicate may stand in another file.  What is remembered
    of the rows is on disk, so memory does not grow with them.

    Raises:
        MissingExtraError: Near-duplicates are looked for without the extra ``check``.
        RecipeError: There is no such file or benchmark.
        ArmormError: A benchmark cannot be read.
    """
    files = list(files)
    for file in files:
        if not file.is_file():
            raise RecipeError(f"There is no file {str(file)!r}.")
    benchmarks = [_Benchmark(name, options) for name in options.against]
    with tempfile.TemporaryDirectory(prefix="armorm-check-") as folder:
        seen = SeenRows(Path(folder) / "rows.sqlite")
        sides = _Sides(Path(folder), options)
        with database_errors(Path(folder)), closing(seen), closing(sides):
            reports = tuple(
                _check_file(file, options, seen, sides, benchmarks, show_progress) for file in files
            )
            prompts = sides.report()
    return CheckReport(
        files=reports,
        prompts=prompts,
        contamination={benchmark.name: benchmark.report() for benchmark in benchmarks},
        valid=not any(report.invalid for report in reports),
    )


def _check_file(
    file: Path,
    options: CheckOptions,
    seen: SeenRows,
    sides: _Sides,
    benchmarks: list[_Benchmark],
    show_progress: bool,
) -> FileReport:
    kind = _kind_of(file)
    tally, invalid, duplicates = Tally(), Findings(), Findings()
    ratings = RatingCounts()
    responses = characters = longer = 0
    with progress_bar(f"check {file.name}", count_rows(file), "rows", show_progress) as advance:
        for row in _rows(file, kind, options.objectives, tally):
            advance(1)
            if isinstance(row, InputError):
                invalid.add(row.reason, row.as_dict())
                continue
            if not seen.add(row):
                duplicates.add(DUPLICATE, {"file": str(file), "id": row.id})
            elif isinstance(row, PreferencePair) and seen.has(_swapped(row)):
                duplicates.add("the same pair, preferred the other way", {"id": row.id})
            responses += len(row.responses)
            characters += sum(map(len, row.responses))
            if isinstance(row, PreferencePair):
                longer += len(row.chosen) > len(row.rejected)
            sides.add(row, file)
            for benchmark in benchmarks:
                benchmark.find_in(row, file)
            if isinstance(row, RatedResponse):
                for objective, rating in row.ratings.items():
                    ratings.add(objective, (rating,))
    return FileReport(
        file=str(file),
        kind=kind,
        rows=tally.read,
        kept=tally.kept,
        invalid=invalid.by_sort(),
        duplicates=duplicates.by_sort(),
        ratings=ratings.as_dict(),
        lengths=Lengths(
            mean_response_characters=characters / max(responses, 1),
            chosen_longer=longer / (responses / 2) if kind == "preferences" and responses else None,
        ),
    )


def _kind_of(file: Path) -> Kind:
    for raw in itertools.islice(file_rows(file), NAMES_FROM):
        if not isinstance(raw.fields, InputError):
            return "preferences" if "chosen" in raw.fields else "rated"
    return "rated"


def _rows(
    file: Path, kind: Kind, objectives: ObjectiveSet | None, tally: Tally
) -> Iterator[Row | InputError]:
    source = DataSource(path=glob.escape(str(file)))
    # A row of a prepared file says which side it is on.
    by_column = HeldOut(column="split", values=("held_out", "val", "validation", "test"))
    held_out = by_column if _has_split(file) else None
    if kind == "preferences":
        return preference_rows(source, tally, held_out=held_out)
    return rated_rows(source, objectives or _objectives_in(file), tally, held_out=held_out)


def _has_split(file: Path) -> bool:
    first = next(file_rows(file), None)
    return (
        first is not None and not isinstance(first.fields, InputError) and "split" in first.fields
    )


def _objectives_in(file: Path) -> ObjectiveSet:
    """Return the paper's objectives, and the others that the first rows rate, without a scale."""
    others: dict[str, None] = {}
    for raw in itertools.islice(file_rows(file), NAMES_FROM):
        ratings = None if isinstance(raw.fields, InputError) else raw.fields.get("ratings")
        if isinstance(ratings, dict):
            others.update(dict.fromkeys(ratings))
    unbounded = []
    for name in others.keys() - set(PAPER_OBJECTIVES.names):
        with suppress(ValidationError):  # no name, or half a character: its rows are invalid
            unbounded.append(Objective(name=name, minimum=-1e300, maximum=1e300))
    return ObjectiveSet([*PAPER_OBJECTIVES, *unbounded])


def _swapped(pair: PreferencePair) -> PreferencePair:
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def _words_of(conversation: Conversation) -> str:
    return "\n".join(message["content"] for message in conversation)


class _Sides:
    """Search for prompts that are the same or nearly so, above all on both sides of the split."""

    def __init__(self, folder: Path, options: CheckOptions) -> None:
        self._prompts = (
            Prompts(folder / "prompts.sqlite", options.similarity)
            if options.near_duplicates
            else None
        )
        self._distinct = 0
        self._near = Findings()

    def add(self, row: Row, file: Path) -> None:
        if self._prompts is None:
            return
        split = "held_out" if row.held_out else "train"
        place = f"{file.name} {row.id}"
        near = self._prompts.add(prompt_key(row.prompt), _words_of(row.prompt), place, split)
        self._distinct += near is None or not near.same
        if near is None:
            return
        example = {"prompt": place, "like": near.place, "similarity": round(near.similarity, 3)}
        if near.split != split:
            how = "the same" if near.same else "nearly the same"
            self._near.add(f"{how} prompt on both sides", example)
        elif not near.same:
            self._near.add("nearly the same prompt", example)

    def report(self) -> PromptReport | None:
        if self._prompts is None:
            return None
        return PromptReport(distinct=self._distinct, near=self._near.by_sort())

    def close(self) -> None:
        if self._prompts is not None:
            self._prompts.close()


class _Benchmark:
    """Texts of a benchmark, and the places where they were found."""

    def __init__(self, name: str, options: CheckOptions) -> None:
        self.name = name
        self._least = options.overlap
        rows = list(_benchmark_rows(name, options))
        self._subsets = [row.subset if isinstance(row, PreferencePair) else "" for row in rows]
        self._ids = [row.id for row in rows]
        self._prompts = KnownTexts([_words_of(row.prompt) for row in rows])
        # The first response alone: for a benchmark the right one.
        self._responses = KnownTexts([row.responses[0] for row in rows])
        self._found: dict[str, set[int]] = {"prompt": set(), "response": set()}
        self._rows_with = Counter[str]()
        self._examples: list[dict[str, Any]] = []

    def find_in(self, row: Row, file: Path) -> None:
        """Look for the benchmark's prompts in the row's, and its responses in the row's."""
        self._look("prompt", self._prompts, _words_of(row.prompt), row, file)
        for response in row.responses:
            self._look("response", self._responses, response, row, file)

    def _look(self, part: str, known: KnownTexts, text: str, row: Row, file: Path) -> None:
        overlaps = known.overlaps(text, self._least)
        if not overlaps:
            return
        self._rows_with[part] += 1
        self._found[part].update(overlap.text for overlap in overlaps)
        if self._rows_with[part] <= MOST_EXAMPLES:
            largest = overlaps[0]
            self._examples.append(
                {
                    "part": part,
                    "file": str(file),
                    "id": row.id,
                    "benchmark_id": self._ids[largest.text],
                    "subset": self._subsets[largest.text],
                    "overlap": round(largest.share, 3),
                }
            )

    def report(self) -> Contamination:
        found = self._found["prompt"] | self._found["response"]
        return Contamination(
            benchmark_rows=len(self._ids),
            found={part: len(texts) for part, texts in self._found.items()},
            found_by_subset=dict(Counter(self._subsets[text] for text in found)),
            rows_with_overlap={part: self._rows_with[part] for part in self._found},
            examples=tuple(self._examples),
        )


def _benchmark_rows(name: str, options: CheckOptions) -> Iterator[Row]:
    entry = catalog().get(name)
    if entry is not None:
        rows = _catalog_rows(entry, options)
    elif Path(name).is_file():
        file = Path(name)
        rows = _rows(file, _kind_of(file), options.objectives, Tally())
    else:
        raise RecipeError(
            f"--against {name}: neither a file nor a dataset of the catalogue. "
            f"{did_you_mean(name, catalog())}"
        )
    yield from (row for row in rows if not isinstance(row, InputError))


def _catalog_rows(entry: CatalogEntry, options: CheckOptions) -> Iterator[Row | InputError]:
    root = None if options.root is None else str(options.root)
    source = DataSource(catalog=entry.name, root=root)
    if entry.preferences is not None:
        return preference_rows(source, Tally())
    return rated_rows(source, options.objectives or PAPER_OBJECTIVES, Tally())
