"""Monitor of drift in what a reward model scores, with alarms that may be looked at any time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from armorm.errors import ArmormError, InputError
from armorm.evaluation.monitoring.alarms import (
    Alarm,
    MovedResponse,
    Shift,
    Stream,
    change_point,
    shift_since,
)
from armorm.evaluation.monitoring.evidence import (
    SIDES,
    STAKES,
    Evidence,
    SequentialRanks,
    normal_scores,
    rank_bets,
    share_bets,
)
from armorm.evaluation.monitoring.observations import Observation
from armorm.evaluation.monitoring.options import MonitorOptions
from armorm.files import read_json, write_json

if TYPE_CHECKING:
    from armorm.model import RewardModel

Array = npt.NDArray[np.float64]

STATE_FORMAT = 1
REMEMBERED_RESPONSES = 256
SHOWN_RESPONSES = 3


class DriftMonitor:
    """Monitor of the score, every objective, novelty and texts of scored responses.

    The **null** of each stream is that prompts, with their responses, are exchangeable with those
    of the baseline.  A policy that gets better violates it too, and so does a change of the
    prompts: an alarm says that something moved, what and which way, not that it is bad.  Where the
    null holds, the probability that any stream ever rings is at most ``options.false_alarm``,
    however often it is looked at (:mod:`armorm.evaluation.monitoring.evidence`).  The stream
    ``unfamiliar`` has another null: given the past, no more than ``options.unfamiliar_share`` of
    the responses are more novel than 99 % of held-out rated rows.  Each stream rings once.

    Args:
        objectives: Names of the model's objectives.
        options: Baseline, false alarms, streams.
        novelty: Watch the novelty, which every observation must then hold, or features that it is
            computed from.
        usual_novelty: Novelty that 99 % of held-out rated rows stay below, if known.
        model: Fingerprint of the model, which a saved state belongs to.
        novelty_of: Function from features to novelties.

    Attributes:
        objectives: See the argument.
        options: See the argument.
        streams: The streams, in a fixed order.
        alarms: All alarms so far.
        steps: Calls of :meth:`observe` so far.
        units: Prompts observed so far.
        skipped: Responses left out because a number of theirs is not finite.

    Example:
        >>> import numpy as np
        >>> from armorm.evaluation.monitoring import DriftMonitor, Observation
        >>> monitor = DriftMonitor(["correct", "courteous"])
        >>> random = np.random.default_rng(0)
        >>> for step in range(60):
        ...     rewards = random.normal(size=(8, 2)) + [0, 1.5 * (step >= 40)]
        ...     found = monitor.observe(Observation(
        ...         tuple(f"prompt {step} {i}" for i in range(8)), ("text",) * 8,
        ...         rewards.sum(axis=1), rewards, rewards))
        >>> first = monitor.alarms[0]
        >>> first.objective, first.direction, first.since_step
        ('courteous', 'up', 41)
    """

    def __init__(
        self,
        objectives: Sequence[str],
        options: MonitorOptions | None = None,
        *,
        novelty: bool = False,
        usual_novelty: float | None = None,
        model: str = "",
        novelty_of: Callable[[Array], Array] | None = None,
    ) -> None:
        self.objectives = tuple(objectives)
        self.options = options or MonitorOptions()
        self.watches_novelty = novelty
        self.usual_novelty = usual_novelty if novelty else None
        self.model = model
        self._novelty_of = novelty_of
        self.streams = tuple(self._make_streams())
        self.rebase()

    @classmethod
    def of(cls, model: RewardModel, options: MonitorOptions | None = None) -> DriftMonitor:
        """Return a monitor of what a model scores; of novelty too, if its folder has it.

        Example:
            >>> from armorm import RewardModel
            >>> from armorm.evaluation.monitoring import DriftMonitor
            >>> model = RewardModel.from_pretrained("runs/quickstart/model")
            >>> [stream.name for stream in DriftMonitor.of(model).streams][-5:]
            ['unfamiliar', 'dominance', 'text:length', 'text:markup', 'text:flattery']
        """
        known = model.uncertainty
        return cls(
            model.objectives.names,
            options,
            novelty=known is not None,
            usual_novelty=None if known is None else known.head.usual_novelty,
            model=model.fingerprint(),
            novelty_of=None if known is None else known.head.novelty,
        )

    @classmethod
    def of_folder(
        cls,
        name_or_path: str | Path,
        options: MonitorOptions | None = None,
        *,
        novelty: bool = True,
        revision: str | None = None,
    ) -> DriftMonitor:
        """Return the monitor of a model folder or hub id, whose backbone is not loaded.

        Args:
            name_or_path: The folder.
            options: See the class.
            novelty: Watch the novelty, if the folder has it.
            revision: Revision of a hub id.
        """
        from armorm.model.loading import load_checkpoint
        from armorm.model.uncertainty import ModelUncertainty

        checkpoint = load_checkpoint(name_or_path, revision)
        known = ModelUncertainty.in_folder(checkpoint.folder) if novelty else None
        return cls(
            checkpoint.heads.objectives.names,
            options,
            novelty=known is not None,
            usual_novelty=None if known is None else known.head.usual_novelty,
            model=checkpoint.fingerprint,
        )

    def _make_streams(self) -> list[Stream]:
        streams = [Stream("score", "score", "score")]
        streams += [Stream(f"reward:{name}", "objective", name) for name in self.objectives]
        if self.watches_novelty:
            streams.append(Stream("novelty", "novelty", "novelty"))
        if self.usual_novelty is not None:
            streams.append(Stream("unfamiliar", "unfamiliar", "unfamiliar"))
        if len(self.objectives) > 1:
            streams.append(Stream("dominance", "dominance", "dominance"))
        return streams + [Stream(f"text:{name}", "text", name) for name in self.options.texts]

    def rebase(self) -> None:
        """Forget everything: what comes next is the new baseline.

        The bound on false alarms then holds for what follows alone.
        """
        options = self.options
        streams = len(self.streams)
        self.alarms: tuple[Alarm, ...] = ()
        self.steps = self.units = self.skipped = 0
        self._random = np.random.Generator(np.random.PCG64(options.seed))
        self._evidence = Evidence(streams, run_length=options.run_length is not None)
        self._needed = math.log(streams) + (
            -math.log(options.false_alarm)
            if options.run_length is None
            else math.log(options.run_length)
        )
        self._learned: list[Array] = []
        self._learned_until = (0, 0)  # prompts and steps
        self._ranks: SequentialRanks | None = None
        self._scales: tuple[Array, Array] | None = None
        self._baseline: tuple[Array, Array, int] | None = None
        self._rows: deque[Array] = deque(maxlen=options.recent)
        self._scores: deque[Array] = deque(maxlen=options.recent)
        self._step_of: deque[int] = deque(maxlen=options.recent)
        self._responses: deque[tuple[Any, str, Array, Any]] = deque(maxlen=REMEMBERED_RESPONSES)

    def learn(self, reference: Observation) -> None:
        """Take a baseline from responses that were scored before, such as those to rated prompts.

        Raises:
            InputError: It has too few prompts.
            ArmormError: Something was observed already.
        """
        if self.units or self._ranks is not None:
            raise ArmormError(
                "The monitor has a baseline already. Call rebase() before learn(), or learn() "
                "before the first observe()."
            )
        rows = self._unit_rows(*self._numbers(reference))
        if len(rows) < 32:
            raise InputError(
                "reference", len(rows), "too few prompts for a baseline", "Give 32 at least."
            )
        self._begin(rows)

    def observe(self, observation: Observation) -> tuple[Alarm, ...]:
        """Take the responses of one step; return the alarms that it rings.

        Responses with a number that is not finite are left out and counted.

        Raises:
            InputError: The observation lacks the novelty that the monitor watches, or has another
                number of objectives.
        """
        self.steps += 1
        kept, table = self._numbers(observation)
        self._evidence.begin_step()
        for row in self._unit_rows(kept, table):
            self._observe_unit(row)
        features = [None] * len(kept) if kept.features is None else list(kept.features)
        self._responses.extend(
            zip(kept.prompts, kept.responses, list(table), features, strict=True)
        )
        return self._ring()

    @property
    def learning(self) -> bool:
        """True until the baseline is complete."""
        return self._ranks is None

    def evidence(self) -> dict[str, float]:
        """Return the decimal logarithm of each stream's e-value."""
        values = (self._evidence.values() / math.log(10)).tolist()
        return dict(zip((stream.name for stream in self.streams), values, strict=True))

    @property
    def needed(self) -> float:
        """The decimal logarithm of the e-value at which a stream rings."""
        return self._needed / math.log(10)

    def moves(self, units: int = 64) -> dict[str, float]:
        """Return how far the mean of each stream's last prompts is from its baseline's.

        Args:
            units: Number of prompts.

        Returns:
            Differences in deviations of the baseline; none until there is one.
        """
        if self._baseline is None or not self._rows:
            return {}
        return self._moves(self._stream_values(np.array(self._rows)[-units:]))

    def _numbers(self, observation: Observation) -> tuple[Observation, Array]:
        """Return the finite responses of an observation, and their numbers, one row each."""
        if observation.rewards.shape[1] != len(self.objectives):
            raise InputError(
                "rewards",
                observation.rewards.shape[1],
                f"objectives, where the monitor watches {len(self.objectives)}",
                "Observe what the same model scored.",
            )
        kept = observation.finite()
        self.skipped += len(observation) - len(kept)
        if self.watches_novelty and kept.novelty is None:
            if self._novelty_of is None or kept.features is None:
                remedy = "Score with uncertainty."
                raise InputError("novelty", None, "missing, and the monitor watches it", remedy)
            kept = replace(kept, novelty=self._novelty_of(kept.features.astype(np.float64)))
        columns = [kept.score[:, None], kept.rewards, kept.contributions]
        if self.watches_novelty and kept.novelty is not None:
            columns.append(kept.novelty[:, None])
        if self.usual_novelty is not None and kept.novelty is not None:
            columns.append((kept.novelty > self.usual_novelty)[:, None].astype(np.float64))
        return kept, np.hstack([*columns, kept.measures(self.options.texts)])

    @staticmethod
    def _unit_rows(observation: Observation, table: Array) -> Array:
        """Return the mean row of each prompt's responses."""
        units = observation.units
        counts = np.bincount(units)
        sums = np.zeros((len(counts), table.shape[1]))
        np.add.at(sums, units, table)
        rows: Array = sums / counts[:, None]
        return rows

    def _stream_values(self, table: Array) -> Array:
        """Return the streams of rows of numbers. Shapes (n, columns) and (n, streams)."""
        k = len(self.objectives)
        columns = [table[:, : 1 + k]]
        end = table.shape[1] - len(self.options.texts)
        columns.append(table[:, 1 + 2 * k : end])
        if k > 1:
            leads = self._leads(table)
            columns.append((leads.max(axis=1) - leads.mean(axis=1))[:, None])
        return np.hstack([*columns, table[:, end:]])

    def _leads(self, table: Array) -> Array:
        """Return contributions, less their means in the calibration and in its deviations."""
        assert self._scales is not None
        k = len(self.objectives)
        means, deviations = self._scales
        moved = table[:, 1 + k : 1 + 2 * k] - means
        leads: Array = np.divide(moved, deviations, out=np.zeros_like(moved), where=deviations > 0)
        return leads

    def _begin(self, rows: Array) -> None:
        """Take a baseline from the numbers of its prompts."""
        first = max(16, len(rows) // 4)
        k = len(self.objectives)
        contributions = rows[:first, 1 + k : 1 + 2 * k]
        self._scales = contributions.mean(axis=0), contributions.std(axis=0)
        values = self._stream_values(rows)
        self._ranks = SequentialRanks(values[:first])
        for row in values[first:]:
            self._ranks.add(row)
        rest = values[first:]
        self._baseline = rest.mean(axis=0), rest.std(axis=0, ddof=1), len(rest)

    def _observe_unit(self, row: Array) -> None:
        self.units += 1
        streams = len(self.streams)
        scores = np.zeros(streams)
        factors = np.zeros((streams, SIDES, len(STAKES)))
        if self._ranks is None:
            self._learned.append(row)
        else:
            values = self._stream_values(row[None])[0]
            scores = normal_scores(self._ranks.rank(values, self._random.random(streams)))
            factors = rank_bets(scores)
        place = self._place_of_unfamiliar
        if place is not None:
            stated = self.options.unfamiliar_share
            share = float(row[1 + 2 * len(self.objectives) + 1])
            scores[place] = (share - stated) / math.sqrt(stated * (1 - stated))
            factors[place] = share_bets(share, stated)
        self._evidence.update(factors)
        self._rows.append(row)
        self._scores.append(scores)
        self._step_of.append(self.steps)
        if self._ranks is None and len(self._learned) == self.options.baseline:
            self._begin(np.array(self._learned))
            self._learned, self._learned_until = [], (self.units, self.steps)

    @property
    def _place_of_unfamiliar(self) -> int | None:
        names = [stream.name for stream in self.streams]
        return names.index("unfamiliar") if self.usual_novelty is not None else None

    def _ring(self) -> tuple[Alarm, ...]:
        """Return alarms of the streams that reached what is needed, each for the first time."""
        rung = {alarm.stream for alarm in self.alarms}
        evidence = self._evidence.values()
        rising = self._evidence.rising()
        new = tuple(
            self._alarm(place, bool(rising[place]), float(evidence[place]))
            for place in np.argsort(-evidence).tolist()
            if evidence[place] >= self._needed and self.streams[place].name not in rung
        )
        self.alarms += new
        return new

    def _alarm(self, place: int, rising: bool, evidence: float) -> Alarm:
        stream = self.streams[place]
        scores, steps = np.array(self._scores)[:, place], np.array(self._step_of)
        forgotten = self.units - len(scores)
        # The baseline's own prompts were not ranked; of the unfamiliar all count.
        learned = (0, 0) if stream.kind == "unfamiliar" else self._learned_until
        skipped = max(0, learned[0] - forgotten)
        start = skipped + change_point(scores[skipped:], steps[skipped:], rising=rising)
        rows = np.array(self._rows)[start:]
        since = int(steps[start])
        values = self._values_of(stream, place, rows)
        return Alarm(
            stream=stream.name,
            kind=stream.kind,
            objective=self._objective(stream, rows),
            direction="up" if rising else "down",
            log10_evidence=evidence / math.log(10),
            log10_needed=self.needed,
            step=self.steps,
            unit=self.units,
            since_step=since,
            since_unit=forgotten + start + 1,
            shift=self._shift(stream, place, values, max(since - learned[1], 1)),
            moves={} if self._scales is None else self._moves(self._stream_values(rows)),
            moved=self._moved(stream, place, rising),
        )

    def _values_of(self, stream: Stream, place: int, rows: Array) -> Array:
        if stream.kind == "unfamiliar":  # which may ring before there are scales
            return rows[:, 1 + 2 * len(self.objectives) + 1]
        return self._stream_values(rows)[:, place]

    def _shift(self, stream: Stream, place: int, values: Array, beginning: int) -> Shift:
        if stream.kind == "unfamiliar":
            stated = self.options.unfamiliar_share
            baseline = stated, math.sqrt(stated * (1 - stated)), 10**9
        else:
            assert self._baseline is not None
            means, deviations, count = self._baseline
            baseline = float(means[place]), float(deviations[place]), count
        return shift_since(values, baseline, beginning=beginning)

    def _objective(self, stream: Stream, rows: Array) -> str | None:
        if stream.kind == "dominance":
            return self.objectives[int(np.argmax(self._leads(rows).mean(axis=0)))]
        return stream.subject if stream.kind == "objective" else None

    def _moves(self, values: Array) -> dict[str, float]:
        assert self._baseline is not None
        means, deviations, _ = self._baseline
        sizes = np.divide(
            values.mean(axis=0) - means,
            deviations,
            out=np.zeros(len(means)),
            where=deviations > 0,
        )
        return dict(zip((stream.name for stream in self.streams), sizes.tolist(), strict=True))

    def _moved(self, stream: Stream, place: int, rising: bool) -> tuple[MovedResponse, ...]:
        """Return the recent responses that are furthest in a direction."""
        if not self._responses:
            return ()
        table = np.array([numbers for _, _, numbers, _ in self._responses])
        values = self._values_of(stream, place, table)
        order = np.argsort(-values if rising else values, kind="stable")
        found: dict[str, MovedResponse] = {}
        for i in order:
            prompt, text, _, features = self._responses[i]
            found.setdefault(text, MovedResponse(prompt, text, float(values[i]), features))
            if len(found) == SHOWN_RESPONSES:
                break
        return tuple(found.values())

    def state(self) -> dict[str, Any]:
        """Return all that later decisions depend on, JSON-ready; recent texts are left out."""
        ranks, scales, baseline = self._ranks, self._scales, self._baseline
        return {
            "format": STATE_FORMAT,
            "belongs_to": self._identity(),
            "steps": self.steps,
            "units": self.units,
            "skipped": self.skipped,
            "alarms": [alarm.as_dict() for alarm in self.alarms],
            "random": self._random.bit_generator.state,
            "evidence": self._evidence.as_dict(),
            "learned": [row.tolist() for row in self._learned],
            "learned_until": list(self._learned_until),
            "ranks": None if ranks is None else ranks.as_dict(),
            "scales": None if scales is None else [one.tolist() for one in scales],
            "baseline": None
            if baseline is None
            else [baseline[0].tolist(), baseline[1].tolist(), baseline[2]],
            "rows": [row.tolist() for row in self._rows],
            "scores": [row.tolist() for row in self._scores],
            "step_of": list(self._step_of),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where a monitor was when its state was taken.

        Raises:
            ArmormError: The state is of another format, model, or other options.
        """
        if state.get("format") != STATE_FORMAT:
            raise ArmormError(
                f"The monitor's state has the format {state.get('format')!r}, and this version "
                f"reads {STATE_FORMAT}. Remove it to begin with a new baseline."
            )
        own, other = self._identity(), state["belongs_to"]
        different = [name for name in own if own[name] != other.get(name)]
        if different:
            raise ArmormError(
                f"The monitor's state belongs to another run: {', '.join(different)} differ. "
                "Remove it to begin with a new baseline, or resume with what it was saved with."
            )
        self.rebase()
        self.steps, self.units, self.skipped = state["steps"], state["units"], state["skipped"]
        self.alarms = tuple(map(Alarm.from_dict, state["alarms"]))
        self._random.bit_generator.state = state["random"]
        self._evidence = Evidence.from_dict(
            state["evidence"], len(self.streams), run_length=self._evidence.run_length
        )
        self._learned = [np.array(row) for row in state["learned"]]
        prompts, steps = state["learned_until"]
        self._learned_until = prompts, steps
        if state["ranks"] is not None:
            self._ranks = SequentialRanks.from_dict(state["ranks"])
            means, deviations = map(np.array, state["scales"])
            self._scales = means, deviations
            baseline = state["baseline"]
            self._baseline = np.array(baseline[0]), np.array(baseline[1]), baseline[2]
        self._rows.extend(np.array(row) for row in state["rows"])
        self._scores.extend(np.array(row) for row in state["scores"])
        self._step_of.extend(state["step_of"])

    def save(self, file: str | Path) -> None:
        """Write the state to a file, atomically."""
        write_json(Path(file), self.state())

    def load(self, file: str | Path) -> None:
        """Restore the state of a file.

        Raises:
            ArmormError: See :meth:`restore`; or the file is damaged.
        """
        self.restore(read_json(Path(file)))

    def _identity(self) -> dict[str, Any]:
        """Return what a saved state must agree with."""
        return {
            "model": self.model,
            "options": self.options.model_dump(mode="json"),
            "streams": [stream.name for stream in self.streams],
            "usual_novelty": self.usual_novelty,
        }
