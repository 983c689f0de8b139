"""The extraction loop: conversations in, a feature store out, resumable at any instant.

The work is cut into shards before it starts, by the data alone, so an interrupted run that
resumes writes the same bytes as one that was never interrupted.  All responses to one prompt fall
into one shard, so each prompt's feature is stored once.
"""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from armorm.conversations import EncodedPrompt, PreferencePair, RatedResponse, prompt_key
from armorm.errors import ArmormError
from armorm.features.engines import FeatureBackbone
from armorm.features.merging import merge_prompts
from armorm.features.options import StoreOptions
from armorm.features.processes import Process
from armorm.features.store import (
    RATING_COLUMN,
    FeatureStore,
    Manifest,
    StoreKind,
    StoreWriter,
    index_table,
)
from armorm.files import sha256_of_json
from armorm.objectives import ObjectiveSet
from armorm.progress import Advance, progress_bar, progressing

Row = RatedResponse | PreferencePair
Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class ExtractionSummary:
    """What one run of an extraction did.

    Attributes:
        shards: Shards of the store.
        resumed_shards: Shards that an earlier run, or another process, made.
        responses: Responses whose features this run computed.
        prompts: Their prompts.
        tokens: Their tokens, each conversation counted whole.
        computed_tokens: Tokens that went through the model; fewer where prompts are shared, 0
            where the engine does not tell.
        seconds: Time of this run.
    """

    shards: int
    resumed_shards: int
    responses: int
    prompts: int
    tokens: int
    computed_tokens: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with rates."""
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
    show_progress: bool = False,
    on_summary: Callable[[ExtractionSummary], None] | None = None,
    **fields: Any,
) -> FeatureStore:
    """Compute and store the features of rated responses or preference pairs.

    Under ``accelerate launch`` or ``torchrun`` each process makes its share of the shards, on a
    GPU of its own, and all return the same store.

    Args:
        rows: All of one kind.
        backbone: The frozen model.
        path: Folder of the store.  A finished one is returned as it is (damaged shards are made
            anew); an unfinished one is taken up where it was left.
        options: Number format and size of the shards.
        objectives: The objectives of rated rows; their ratings go into the index.
        show_progress: Draw a progress bar on standard error.
        on_summary: Called with what this run did.
        **fields: Fields that replace those of ``options``.

    Raises:
        StoreError: the folder holds a store of another backbone, template, dtype or data, or the
            disk is full.
        OverlongError: a conversation is too long and the backbone's policy is ``error``.
        ArmormError: there are no rows.
    """
    started = time.perf_counter()
    work = plan_work(
        rows,
        BackboneSettings.of(backbone),
        path,
        StoreOptions.of(options, fields),
        objectives=objectives,
        show_progress=show_progress,
    )
    process = Process.current()
    with progress_bar(work.title, work.total, "responses", show_progress) as advance:
        counts = _extract_shards(work, backbone, process, advance)
    if on_summary is not None:
        on_summary(work.summary(counts, started))
    return process.finish_together(work.writer)


@dataclass(frozen=True, slots=True)
class BackboneSettings:
    """What a store depends on besides the rows.

    Attributes:
        identity: See :class:`FeatureBackbone`.
        max_length: Most tokens of a conversation.
        overlong: What happens to longer ones.
    """

    identity: dict[str, Any]
    max_length: int | None
    overlong: str

    @classmethod
    def of(cls, backbone: FeatureBackbone) -> BackboneSettings:
        return cls(backbone.identity, backbone.encoder.max_length, backbone.encoder.overlong)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What a shard is made of.

    Attributes:
        rows: Numbers of its rows. Shape (rows,).
        responses: How many responses they have together.
    """

    rows: Int[np.ndarray, " rows"]
    responses: int


@dataclass(frozen=True, slots=True)
class ExtractionWork:
    """A store that is to be made.

    Attributes:
        writer: Write access to it.
        shards: What each shard is made of.
        rows: The rows.
    """

    writer: StoreWriter
    shards: list[ShardPlan]
    rows: Rows

    @property
    def title(self) -> str:
        return f"features ({self.writer.manifest.kind})"

    @property
    def total(self) -> int:
        """Responses of all shards."""
        return sum(shard.responses for shard in self.shards)

    def members(self, shard: int) -> list[tuple[int, Row]]:
        """The rows of a shard with their numbers."""
        return [(i, self.rows[i]) for i in self.shards[shard].rows.tolist()]

    def responses(self, shard: int) -> int:
        return self.shards[shard].responses

    def summary(self, counts: Counter[str], started: float) -> ExtractionSummary:
        """What a run did, from the sum of what :func:`extract_shard` returned."""
        return ExtractionSummary(
            shards=len(self.shards),
            resumed_shards=len(self.shards) - counts["shards"],
            responses=counts["responses"],
            prompts=counts["prompts"],
            tokens=counts["tokens"],
            computed_tokens=counts["computed_tokens"],
            seconds=time.perf_counter() - started,
        )


def plan_work(
    rows: Rows,
    backbone: BackboneSettings,
    path: str | Path,
    options: StoreOptions,
    *,
    objectives: ObjectiveSet | None = None,
    show_progress: bool = False,
) -> ExtractionWork:
    """Cut rows into shards and start their store; see :func:`extract_features`."""
    if not rows:
        raise ArmormError(f"There are no rows to make the features of {path} of.")
    kind: StoreKind = "preferences" if isinstance(rows[0], PreferencePair) else "rated"
    digest = hashlib.sha256()
    shown = progressing(rows, f"shards ({kind})", len(rows), "rows", show_progress)
    shards = plan_shards(_told(shown, digest.update), options.shard_responses)
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
    )
    return ExtractionWork(StoreWriter.start(Path(path), manifest), shards, rows)


def _extract_shards(
    work: ExtractionWork, backbone: FeatureBackbone, process: Process, advance: Advance
) -> Counter[str]:
    """Make the shards of this process that are not done yet; returns what was computed.

    The next shard is read into tokens while the model works on this one.
    """
    counts: Counter[str] = Counter()
    if work.writer.manifest.complete:
        return counts
    mine = [i for i in range(len(work.shards)) if i % process.count == process.rank]
    missing = []
    for shard in mine:
        if work.writer.is_done(shard):
            advance(work.responses(shard))
        else:
            missing.append(shard)
    with ThreadPoolExecutor(1) as reader:
        ahead = (reader.submit(encode_shard, work.members(shard), backbone) for shard in missing)
        following = next(ahead, None)
        for shard in missing:
            assert following is not None
            encoded, following = following.result(), next(ahead, None)
            counts += extract_shard(shard, encoded, backbone, work.writer, advance)
    return counts


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """The rows of a shard as tokens.

    Attributes:
        members: The rows with their numbers.
        conversations: Their ids; ``None`` for one that is too long.
    """

    members: list[tuple[int, Row]]
    conversations: list[EncodedPrompt | None]


def encode_shard(members: list[tuple[int, Row]], backbone: FeatureBackbone) -> EncodedShard:
    """Render and tokenise the rows of a shard."""
    encode = backbone.encoder.encode_or_skip
    return EncodedShard(members, [encode(row.prompt, row.responses) for _, row in members])


def extract_shard(
    shard: int,
    encoded: EncodedShard,
    backbone: FeatureBackbone,
    writer: StoreWriter,
    advance: Advance,
) -> Counter[str]:
    """Compute and write one shard; returns how much was computed."""
    objectives = [objective.name for objective in writer.manifest.objectives]
    present = [one for one in encoded.conversations if one is not None]
    merged = merge_prompts(present)
    responses = sum(len(row.responses) for _, row in encoded.members)
    features = backbone.features(
        merged.prompts, lambda done: advance(responses * done / max(merged.tokens, 1), done)
    )
    prompt_numbers, first_response = iter(merged.prompt_numbers), 0
    lines = []
    for (member, row), one in zip(encoded.members, encoded.conversations, strict=True):
        prompt = -1 if one is None else next(prompt_numbers)
        lines += _index_lines(shard, member, row, one, prompt, first_response, objectives)
        first_response += 0 if one is None else len(one.sequences)
    # Each prompt is stored once, and each response for itself: rows of the index are rows there.
    features = replace(features, responses=features.responses[merged.response_numbers])
    writer.write_shard(shard, features, index_table(lines, objectives))
    return Counter(
        shards=1,
        responses=len(features.responses),
        prompts=len(features.prompts),
        tokens=sum(one.tokens for one in present),
        computed_tokens=features.computed_tokens or 0,
    )


def plan_shards(rows: Iterable[Row], shard_responses: int) -> list[ShardPlan]:
    """Cut rows into shards, rows of one prompt together, in order of appearance.

    Some hundred bytes of each row are in memory, however long its text.
    """
    prompts, responses = array("Q"), array("q")
    for row in rows:
        prompts.append(int(prompt_key(row.prompt)[:16], 16))
        responses.append(len(row.responses))
    counts = np.array(responses)
    _, first, group = np.unique(np.array(prompts), return_index=True, return_inverse=True)
    order = np.argsort(first[group], kind="stable")
    ends = np.append(np.flatnonzero(np.diff(group[order])) + 1, len(order))
    done = np.cumsum(counts[order])[ends - 1]  # responses up to the end of each group of rows
    shards: list[ShardPlan] = []
    start = before = 0
    while start < len(order):
        last = min(int(np.searchsorted(done, before + shard_responses)), len(ends) - 1)
        end, after = int(ends[last]), int(done[last])
        shards.append(ShardPlan(order[start:end], after - before))
        start, before = end, after
    return shards


def hash_rows(rows: Iterable[Row]) -> str:
    """A fingerprint of everything in the rows that ends up in a store."""
    digest = hashlib.sha256()
    for _ in _told(rows, digest.update):
        pass
    return digest.hexdigest()


def _told(rows: Iterable[Row], tell: Callable[[bytes], object]) -> Iterator[Row]:
    """The rows as they come, after telling a digest what is in each."""
    for row in rows:
        ratings = sorted(row.ratings.items()) if isinstance(row, RatedResponse) else None
        fields = [row.prompt, row.responses, row.id, row.source, row.held_out, ratings]
        subset = row.subset if isinstance(row, PreferencePair) else None
        line = json.dumps([*fields, subset], ensure_ascii=False)
        tell(line.encode("utf-8", "surrogatepass"))
        yield row


def content_key(prompt: str, response: str, ratings: Mapping[str, float]) -> str:
    """What a rated row is known by: a hash of its prompt's key, its response and its ratings."""
    return sha256_of_json([prompt, response, dict(ratings)])[:32]


def _index_lines(
    shard: int,
    member: int,
    row: Row,
    encoded: EncodedPrompt | None,
    prompt: int,
    first_response: int,
    objectives: Sequence[str],
) -> list[dict[str, object]]:
    key = prompt_key(row.prompt)
    sides: tuple[str, ...] = ("rated",)
    subset, ratings = row.source, {}
    if isinstance(row, PreferencePair):
        sides, subset = ("chosen", "rejected"), row.subset
    else:
        ratings = dict(row.ratings)
    lines: list[dict[str, object]] = []
    for number, (side, text) in enumerate(zip(sides, row.responses, strict=True)):
        lines.append(
            {
                "row": member,
                "side": side,
                "id": row.id,
                "prompt_key": key,
                "content_key": content_key(key, text, ratings),
                "source": row.source,
                "subset": subset,
                "held_out": row.held_out,
                "shard": shard,
                "response": None if encoded is None else first_response + number,
                "prompt": None if encoded is None else prompt,
                "tokens": None if encoded is None else len(encoded.sequences[number]),
                "characters": len(text),
                "dropped_turns": None if encoded is None else encoded.dropped_turns,
                **{RATING_COLUMN + name: ratings.get(name) for name in objectives},
            }
        )
    return lines
