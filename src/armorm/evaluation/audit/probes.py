"""Conversations of an audit, and their scores: pairs as they are, and under changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from armorm.conversations import Conversation, PreferencePair
from armorm.errors import ArmormError, InputError
from armorm.evaluation.audit.changes import Change
from armorm.evaluation.scorers import Scored, Scorer
from armorm.files import exclusive, json_line, parse_json, sha256_of_json
from armorm.jobs.parts import PartRecord, PartsFolder
from armorm.progress import progress_bar

ROWS_AT_ONCE = 256
"""Probes that are scored together, and that a killed run loses at most."""


OWN_NAMES = ("all", "within", "given_length")
"""Names in parentheses that do not mean a group: a group of such a name is renamed."""


def group_of(pair: PreferencePair) -> str:
    """Return the group of a pair: its subset, else its source.

    Example:
        >>> pair = PreferencePair(({"role": "user", "content": "?"},), "a", "b", subset="all")
        >>> group_of(pair)
        'all (group)'
    """
    name = pair.subset or pair.source
    return f"{name} (group)" if name in OWN_NAMES else name or "all"


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt with one or two responses to be scored.

    Attributes:
        prompt: Messages up to and including the last user turn.
        responses: Texts.
        pair: Position of the pair it was made from.
        sides: Side of each response in the pair: 0 chosen, 1 rejected.
        change: Name of the change; empty for the pair as it is.
        id: Name in messages.
    """

    prompt: Conversation
    responses: tuple[str, ...]
    pair: int
    sides: tuple[int, ...] = (0, 1)
    change: str = ""
    id: str = ""


def probes_of(
    pairs: Sequence[PreferencePair],
    changes: Sequence[Change],
    changed: Sequence[int],
    seed: int = 0,
) -> list[Probe]:
    """Return the pairs, each followed by its changed forms, so that they share their prompt.

    Args:
        pairs: The pairs.
        changes: The changes.
        changed: Positions of the pairs that are changed.
        seed: Of what the changes draw.
    """
    probes = []
    asked = set(changed)
    for number, pair in enumerate(pairs):
        probes.append(Probe(pair.prompt, pair.responses, number, id=pair.id))
        for change in changes if number in asked else ():
            probes += _changed(pair, number, change, seed)
    return probes


def _changed(pair: PreferencePair, number: int, change: Change, seed: int) -> list[Probe]:
    question = pair.prompt[-1]["content"]
    found = {
        side: after
        for side, response in enumerate(pair.responses)
        if (after := change.of(question, response, seed)) is not None
    }
    if not found:
        return []
    prompt = next(iter(found.values()))[0]
    messages = (*pair.prompt[:-1], {"role": "user", "content": prompt})
    texts = tuple(text for _, text in found.values())
    return [Probe(messages, texts, number, tuple(found), change.name, pair.id)]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of n responses, in float64.

    Attributes:
        pair: Position of the pair of each response. Shape (n,).
        side: 0 for the chosen response, 1 for the rejected one. Shape (n,).
        score: The scores. Shape (n,).
        rewards: Rewards of the k objectives; k is 0 for a score without parts. Shape (n, k).
        coefficients: Weights of the rewards in the score. Shape (n, k).
        gating: Output of the gate. Shape (n, k).
        objectives: Names of the k columns.
        texts: The responses.
    """

    pair: Int[np.ndarray, " n"]
    side: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    rewards: Float[np.ndarray, "n k"]
    coefficients: Float[np.ndarray, "n k"]
    gating: Float[np.ndarray, "n k"]
    objectives: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def contributions(self) -> Float[np.ndarray, "n k"]:
        """Part of each score that comes from each objective. Shape (n, k)."""
        parts: npt.NDArray[np.float64] = self.coefficients * self.rewards
        return parts

    @property
    def margins(self) -> Float[np.ndarray, " pairs"]:
        """Score of chosen minus score of rejected, of pairs as they are. Shape (pairs,)."""
        margins: npt.NDArray[np.float64] = self.score[::2] - self.score[1::2]
        return margins

    def of_pairs(self, rows: Int[np.ndarray, " m"]) -> Scores:
        """Return the scores of some pairs, by their positions among pairs as they are."""
        both = np.stack([2 * rows, 2 * rows + 1], axis=1).ravel()
        return Scores(
            pair=np.repeat(np.arange(len(rows)), 2),
            side=self.side[both],
            score=self.score[both],
            rewards=self.rewards[both],
            coefficients=self.coefficients[both],
            gating=self.gating[both],
            objectives=self.objectives,
            texts=tuple(self.texts[row] for row in both),
        )

    @classmethod
    def of(
        cls, probes: Sequence[Probe], scored: Sequence[Scored], objectives: tuple[str, ...]
    ) -> Scores:
        """Return the scores of probes, response by response."""
        rows = [
            (probe.pair, side, text, one, place)
            for probe, one in zip(probes, scored, strict=True)
            for place, (side, text) in enumerate(zip(probe.sides, probe.responses, strict=True))
        ]
        k = len(objectives)

        def table(values: Sequence[Sequence[float]]) -> Float[np.ndarray, "n k"]:
            filled = [value or (np.nan,) * k for value in values]
            return np.array(filled, np.float64).reshape(len(rows), k)

        return cls(
            pair=np.array([pair for pair, *_ in rows], np.int64),
            side=np.array([side for _, side, *_ in rows], np.int64),
            score=np.array([one.scores[place] for *_, one, place in rows], np.float64),
            rewards=table([one.rewards[place] if k else () for *_, one, place in rows]),
            coefficients=table([one.coefficients for *_, one, _ in rows]),
            gating=table([one.gating for *_, one, _ in rows]),
            objectives=objectives,
            texts=tuple(text for _, _, text, *_ in rows),
        )


@dataclass(frozen=True, slots=True)
class Probed:
    """Scored pairs, with what became of their scores under each change.

    Attributes:
        pairs: The pairs that have scores.
        scores: Scores of their responses: chosen and rejected in turn.
        changed: Scores under each change; ``pair`` counts through ``pairs``.
        prompts: Last user turn under each change, by position of the pair.
        too_long: Pairs that the scorer cannot read whole.
        refused: Errors of the other pairs without scores.
        changed_refused: Number of changed forms without scores.
    """

    pairs: tuple[PreferencePair, ...]
    scores: Scores
    changed: Mapping[str, Scores]
    prompts: Mapping[str, Mapping[int, str]]
    too_long: int = 0
    refused: tuple[dict[str, Any], ...] = ()
    changed_refused: int = 0

    @classmethod
    def of(
        cls,
        pairs: Sequence[PreferencePair],
        probes: Sequence[Probe],
        scored: Sequence[Scored],
        objectives: tuple[str, ...] = (),
    ) -> Probed:
        """Sort scored probes by change.

        Raises:
            ArmormError: No pair has scores.
        """
        together = list(zip(probes, scored, strict=True))
        originals = [(probe, one) for probe, one in together if not probe.change]
        kept = [probe.pair for probe, one in originals if one.error is None]
        errors = [
            one.error.at(f"pair {probe.id or probe.pair + 1}", None)
            for probe, one in originals
            if one.error is not None and not one.too_long
        ]
        if not kept:
            reason = str(errors[0]) if errors else "all of them are too long for the model"
            raise ArmormError(f"No pair could be scored: {reason}")
        place = {pair: number for number, pair in enumerate(kept)}
        changed = [(probe, one) for probe, one in together if probe.change and probe.pair in place]
        usable = [(probe, one) for probe, one in changed if one.error is None]
        moved = [
            (Probe(p.prompt, p.responses, place[p.pair], p.sides, p.change, p.id), one)
            for p, one in usable
        ]
        by_change: dict[str, list[tuple[Probe, Scored]]] = {}
        for probe, one in moved:
            by_change.setdefault(probe.change, []).append((probe, one))
        base = [(probe, one) for probe, one in originals if one.error is None]
        return cls(
            pairs=tuple(pairs[pair] for pair in kept),
            scores=Scores.of(*zip(*base, strict=True), objectives),  # type: ignore[call-arg]
            changed={
                name: Scores.of(*zip(*rows, strict=True), objectives)  # type: ignore[call-arg]
                for name, rows in by_change.items()
            },
            prompts={
                name: {probe.pair: probe.prompt[-1]["content"] for probe, _ in rows}
                for name, rows in by_change.items()
            },
            too_long=sum(one.too_long for _, one in originals),
            refused=tuple(error.as_dict() for error in errors),
            changed_refused=len(changed) - len(usable),
        )


def score_probes(
    scorer: Scorer, probes: Sequence[Probe], output: Path, *, show_progress: bool = False
) -> list[Scored]:
    """Score all probes; a killed run is continued by the same call.

    Args:
        scorer: The scorer.
        probes: What to score.
        output: File of the scores, made in parts (:mod:`armorm.jobs.parts`).
        show_progress: Show progress on standard error.

    Raises:
        ArmormError: The unfinished output belongs to another scorer or other probes.
        OutputError: The output cannot be written.
    """
    manifest = {
        "work": "audit",
        "scorer": scorer.identity,
        "probes": sha256_of_json([[list(p.prompt), p.responses, p.change] for p in probes]),
        "rows_at_once": ROWS_AT_ONCE,
    }
    folder = PartsFolder(output)
    with exclusive(output, "audit"):
        folder.start(manifest, [])
        records: list[PartRecord] = []
        with progress_bar("audit", len(probes), "rows", show_progress) as advance:
            for number, start in enumerate(range(0, len(probes), ROWS_AT_ONCE)):
                chunk = probes[start : start + ROWS_AT_ONCE]
                record = folder.record(number)
                if record is None:
                    lines = [json_line(_as_record(one)) for one in scorer.score(chunk)]
                    record = folder.write(number, lines, [])
                records.append(record)
                advance(len(chunk))
        folder.finish(records)
    with output.open("rb") as lines_of:
        return [_from_record(parse_json(line)) for line in lines_of]


def _as_record(scored: Scored) -> dict[str, Any]:
    if scored.error is not None:
        return {"too_long": scored.too_long, "error": scored.error.as_dict()}
    record = asdict(scored)
    return {name: record[name] for name in ("scores", "rewards", "gating", "coefficients")}


def _from_record(record: Mapping[str, Any]) -> Scored:
    if "error" in record:
        error = {key: record["error"][key] for key in ("field", "value", "reason", "remedy")}
        return Scored.failed(InputError(**error), too_long=record["too_long"])
    return Scored(
        scores=tuple(record["scores"]),
        rewards=tuple(map(tuple, record["rewards"])),
        gating=tuple(record["gating"]),
        coefficients=tuple(record["coefficients"]),
    )
