"""Progress on standard error: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")

ITEMS_A_MOVE = 256
SECONDS_A_LINE = 30.0


@runtime_checkable
class Advance(Protocol):
    """Function that adds to what is done, and to the tokens of it."""

    def __call__(self, amount: float, tokens: float = 0.0) -> None:
        """Add to the amount that is done, and to the tokens that it took."""


@contextmanager
def progress_bar(description: str, total: float | None, unit: str, show: bool) -> Iterator[Advance]:
    """Show done, total, rate and time left on standard error while the block runs.

    Where standard error is no terminal (a log file, a job scheduler), a plain line is written
    every half minute, and one at the end if there was any.

    Yields:
        A function that adds to what is done.
    """
    if not show:
        yield no_advance
    elif sys.stderr.isatty():
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        lines = ProgressLines(description, total, unit)
        try:
            yield lines.advance
        finally:
            lines.finish()


class ProgressLines:
    """Plain lines about the progress of some work, at most one every half minute.

    Args:
        description: Name of the work.
        total: Amount of it, if known.
        unit: Unit of the amount.
        clock: Seconds; replaced in tests.
    """

    def __init__(
        self,
        description: str,
        total: float | None,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description, self._total, self._unit, self._clock = description, total, unit, clock
        self._started = self._last = clock()
        self._done = self._done_at_last = self._done_before = 0.0
        self._tokens = self._tokens_at_last = 0.0

    def advance(self, amount: float, tokens: float = 0.0) -> None:
        """Add to what is done, and write a line if it is time."""
        self._done += amount
        self._tokens += tokens
        now = self._clock()
        if now - self._started < 1.0:
            # What an interrupted run had done has no rate.
            self._done_before = self._done_at_last = self._done
        elif now - self._last >= SECONDS_A_LINE:
            tokens = self._tokens - self._tokens_at_last
            rate, rates = self._rates(now - self._last, self._done - self._done_at_last, tokens)
            if self._total is not None and rate > 0:
                rates += f", {_duration(max(self._total - self._done, 0.0) / rate)} left"
            self._write(rates)
            self._last, self._done_at_last, self._tokens_at_last = now, self._done, self._tokens

    def finish(self) -> None:
        """Write a last line, with the rate of the whole run, if there was one before."""
        if self._last > self._started:
            seconds = self._clock() - self._started
            _, rates = self._rates(seconds, self._done - self._done_before, self._tokens)
            self._write(f"{rates}, ended after {_duration(seconds)}")

    def _rates(self, seconds: float, done: float, tokens: float) -> tuple[float, str]:
        rates = f"{done / seconds:,.1f} {self._unit}/s"
        return done / seconds, rates + (f", {tokens / seconds:,.0f} tokens/s" if tokens else "")

    def _write(self, rates: str) -> None:
        total = "" if self._total is None else f" of {self._total:,.0f}"
        sys.stderr.write(f"{self._description}: {self._done:,.0f}{total} {self._unit}, {rates}\n")
        sys.stderr.flush()


def progressing(
    items: Iterable[Item], description: str, total: float | None, unit: str, show: bool
) -> Iterator[Item]:
    """Yield the items and count them on a bar, which is not moved for each one."""
    with progress_bar(description, total, unit, show) as advance:
        number = 0
        for number, item in enumerate(items, start=1):
            yield item
            if number % ITEMS_A_MOVE == 0:
                advance(ITEMS_A_MOVE)
        advance(number % ITEMS_A_MOVE)


@contextmanager
def _bar(description: str, total: float | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Column of the rate, in units and in tokens."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            rate = "" if speed is None else f"{speed:,.0f} {unit}/s"
            tokens, seconds = task.fields["tokens"], task.elapsed
            if tokens and seconds:
                rate += f", {tokens / seconds:,.0f} tokens/s"
            return Text(rate, style="cyan")

    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, tokens=0.0)

        def advance(amount: float, tokens: float = 0.0) -> None:
            done = progress.tasks[task].fields["tokens"] + tokens
            progress.update(task, advance=amount, tokens=done)

        yield advance


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def no_advance(amount: float, tokens: float = 0.0) -> None:
    """Do nothing: progress is not shown."""
