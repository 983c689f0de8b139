"""Extraction: conversations in, a feature store out, resumable at any instant.

The work is cut into shards before it starts, by the data alone, so an interrupted run that
resumes writes the same bytes as one that was never interrupted.  All responses to one prompt are
in one shard, so each prompt's feature is stored once.  Where shards are computed, in this process
or by a pool of workers, does not change a byte either.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from armorm.conversations import PreferencePair, RatedResponse
from armorm.errors import ArmormError
from armorm.features.engines import FeatureBackbone
from armorm.features.options import StoreOptions
from armorm.features.prefix_cuts import PrefixCuts
from armorm.features.processes import Process
from armorm.features.shards import (
    InvalidRows,
    Row,
    ShardPlan,
    encode_shard,
    extract_shard,
    plan_shards,
)
from armorm.features.store import FeatureStore
from armorm.features.store_format import Manifest, StoreKind
from armorm.features.store_writing import StoreWriter
from armorm.objectives import ObjectiveSet
from armorm.progress import Advance, progress_bar, progressing

Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class ExtractionSummary:
    """Work of one run of an extraction.

    Attributes:
        shards: Shards of the store.
        resumed_shards: Shards finished by an earlier run or by another process.
        responses: Responses whose features this run computed.
        prompts: Prompts of these responses.
        tokens: Tokens of these conversations, each counted whole.
        computed_tokens: Tokens that went through the model: fewer if prompts are shared, 0 if the
            engine does not count them.
        seconds: Duration of this run.
    """

    shards: int
    resumed_shards: int
    responses: int
    prompts: int
    tokens: int
    computed_tokens: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready fields, with rates."""
        rates = {
            "responses_per_second": self.responses / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
        }
        return {**asdict(self), **rates}


def extract_features(
    rows: Rows,
    backbone: FeatureBackbone,
    path: str | Path,
    options: StoreOptions | None = None,
    *,
    objectives: ObjectiveSet | None = None,
    prefixes: PrefixCuts | None = None,
    invalid: InvalidRows = "error",
    show_progress: bool = False,
    on_summary: Callable[[ExtractionSummary], None] | None = None,
    **fields: Any,
) -> FeatureStore:
    """Compute and store the features of rated responses or preference pairs.

    Under ``accelerate launch`` or ``torchrun`` each process computes its share of the shards, on a
    GPU of its own, and all return the same store.

    Example:
        >>> import tempfile
        >>> from armorm import Backbone, Objective, ObjectiveSet, RatedResponse, extract_features
        >>> backbone = Backbone.from_pretrained("builtin", device="cpu")
        >>> prompt = ({"role": "user", "content": "What is the capital of France?"},)
        >>> rows = [
        ...     RatedResponse(prompt, "Paris.", {"helpfulness": 4.0}),
        ...     RatedResponse(prompt, "Lyon.", {"helpfulness": 1.0}),
        ... ]
        >>> objectives = ObjectiveSet([Objective(name="helpfulness", minimum=0, maximum=4)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = extract_features(rows, backbone, folder, objectives=objectives)
        ...     store.manifest.responses, store.manifest.prompts, store.ratings()[0].tolist()
        (2, 1, [[1.0], [0.25]])

    Args:
        rows: Rows of one kind.
        backbone: The frozen model.
        path: Folder of the store.  A finished one is returned as it is, after damaged shards are
            computed again; an unfinished one is resumed.
        options: Number format and size of the shards.
        objectives: Objectives of rated rows; their ratings go into the index.
        prefixes: Beginnings of the responses whose states are stored too, from the same passes.
        invalid: Treatment of rows that the chat template refuses: ``error`` stops, ``skip`` counts
            them.  The backbone's ``overlong`` decides about rows that are too long.
        show_progress: Draw a progress bar on standard error.
        on_summary: Called with the work of this run.
        **fields: Fields that replace those of ``options``.

    Raises:
        StoreError: The folder holds a store of another backbone, template, dtype or data.
        OutputError: The disk is full or cannot be written; finished shards stay.
        NonFiniteError: A hidden state is NaN or infinite. The row is named; a run with another
            number format then replaces the store.
        OverlongError: A conversation is too long and the backbone's policy is ``error``.
        InputError: The template refuses a row and ``invalid`` is ``error``.
        ArmormError: There are no rows, or another command is writing the store.
    """
    return run_extraction(
        partial(extract_here, backbone),
        rows,
        BackboneSettings.of(backbone),
        path,
        StoreOptions.of(options, fields),
        Process.current(),
        objectives=objectives,
        prefixes=prefixes,
        invalid=invalid,
        show_progress=show_progress,
        on_summary=on_summary,
    )


@dataclass(frozen=True, slots=True)
class BackboneSettings:
    """Settings of a backbone that a store depends on.

    Attributes:
        identity: See :class:`FeatureBackbone`.
        max_length: Maximum number of tokens of a conversation.
        overlong: Treatment of longer ones.
    """

    identity: dict[str, Any]
    max_length: int | None
    overlong: str

    @classmethod
    def of(cls, backbone: FeatureBackbone) -> BackboneSettings:
        """Return the settings of a backbone."""
        return cls(backbone.identity, backbone.encoder.max_length, backbone.encoder.overlong)


@dataclass(frozen=True, slots=True)
class ExtractionWork:
    """A store that is to be written.

    Attributes:
        writer: Write access to the store.
        shards: Rows of each shard.
        rows: All rows.
        invalid: Treatment of rows that the chat template refuses.
    """

    writer: StoreWriter
    shards: list[ShardPlan]
    rows: Rows
    invalid: InvalidRows

    def members(self, shard: int) -> list[tuple[int, Row]]:
        """Return the rows of a shard with their numbers."""
        return [(i, self.rows[i]) for i in self.shards[shard].rows.tolist()]

    def responses(self, shards: Iterable[int]) -> int:
        """Return the number of responses of some shards."""
        return sum(self.shards[shard].responses for shard in shards)


COUNTED = ("responses", "prompts", "tokens", "computed_tokens")

MakeShards = Callable[[ExtractionWork, Sequence[int], Advance], Iterable[Counter[str]]]
"""Function that computes and writes some shards, and yields counts of the work."""


def run_extraction(
    make_shards: MakeShards,
    rows: Rows,
    backbone: BackboneSettings,
    path: str | Path,
    options: StoreOptions,
    process: Process,
    *,
    objectives: ObjectiveSet | None = None,
    prefixes: PrefixCuts | None = None,
    invalid: InvalidRows = "error",
    show_progress: bool = False,
    on_summary: Callable[[ExtractionSummary], None] | None = None,
) -> FeatureStore:
    """Have the missing shards of a process computed, and finish the store.

    Args:
        make_shards: Computes shards, here or elsewhere.
        backbone: Settings of the backbone that it uses.
        process: One of the processes that share the work.
        rows, path, options, objectives, prefixes, invalid, show_progress, on_summary: See
            :func:`extract_features`.

    Raises:
        ArmormError: Another command is writing the store.
    """
    started = time.perf_counter()
    counts: Counter[str] = Counter()
    with process.holding(Path(path)):
        work = plan_work(
            rows, backbone, path, options, objectives, invalid, show_progress, prefixes
        )
        everything = range(len(work.shards))
        if not work.writer.manifest.complete:
            mine = [i for i in everything if i % process.count == process.rank]
            missing = [i for i in mine if not work.writer.is_done(i)]
            title, total = f"features ({work.writer.manifest.kind})", work.responses(everything)
            with progress_bar(title, total, "responses", show_progress) as advance:
                advance(work.responses(set(mine) - set(missing)))
                for made in make_shards(work, missing, advance):
                    counts += made
        if on_summary is not None:
            on_summary(
                ExtractionSummary(
                    shards=len(everything),
                    resumed_shards=len(everything) - counts["shards"],
                    seconds=time.perf_counter() - started,
                    **{name: counts[name] for name in COUNTED},
                )
            )
        return process.finish_together(work.writer)


def plan_work(
    rows: Rows,
    backbone: BackboneSettings,
    path: str | Path,
    options: StoreOptions,
    objectives: ObjectiveSet | None = None,
    invalid: InvalidRows = "error",
    show_progress: bool = False,
    prefixes: PrefixCuts | None = None,
) -> ExtractionWork:
    """Cut rows into shards and start their store; see :func:`extract_features`."""
    if not rows:
        raise ArmormError(f"There are no rows, so {path} cannot hold features.")
    kind: StoreKind = "preferences" if isinstance(rows[0], PreferencePair) else "rated"
    digest = hashlib.sha256()
    shown = progressing(rows, f"shards ({kind})", len(rows), "rows", show_progress)
    shards = plan_shards(_hashing(shown, digest.update), options.shard_responses)
    manifest = Manifest(
        kind=kind,
        backbone=backbone.identity,
        feature_dtype=options.dtype,
        max_length=backbone.max_length,
        overlong=backbone.overlong,
        data_sha256=digest.hexdigest(),
        rows=len(rows),
        shards=len(shards),
        shard_responses=options.shard_responses,
        objectives=list(objectives or ()),
        prefixes=0 if prefixes is None else prefixes.count,
        prefix_seed=0 if prefixes is None else prefixes.seed,
    )
    writer = Process.current().start_together(Path(path), manifest)
    return ExtractionWork(writer, shards, rows, invalid)


def extract_here(
    backbone: FeatureBackbone, work: ExtractionWork, shards: Sequence[int], advance: Advance
) -> Iterator[Counter[str]]:
    """Compute and write shards here, the next one read into tokens while the model works."""
    with ThreadPoolExecutor(1) as reader:
        ahead = (
            reader.submit(encode_shard, work.members(shard), backbone.encoder, work.invalid)
            for shard in shards
        )
        following = next(ahead, None)
        for shard in shards:
            assert following is not None
            encoded, following = following.result(), next(ahead, None)
            yield extract_shard(shard, encoded, backbone, work.writer, advance)


def hash_rows(rows: Iterable[Row]) -> str:
    """Return a hash of everything in the rows that is stored, or that stored features depend on."""
    digest = hashlib.sha256()
    for _ in _hashing(rows, digest.update):
        pass
    return digest.hexdigest()


def _hashing(rows: Iterable[Row], update: Callable[[bytes], object]) -> Iterator[Row]:
    """Yield the rows, each after its content has gone into a digest."""
    for row in rows:
        ratings = sorted(row.ratings.items()) if isinstance(row, RatedResponse) else None
        fields = [row.prompt, row.responses, row.id, row.source, row.held_out, ratings]
        subset = row.subset if isinstance(row, PreferencePair) else None
        line = json.dumps([*fields, subset], ensure_ascii=False)
        update(line.encode("utf-8", "surrogatepass"))
        yield row
