"""One progress bar for everything that can take over a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")

ITEMS_A_MOVE = 256


@runtime_checkable
class Advance(Protocol):
    """Adds to what is done, and to the tokens that took."""

    def __call__(self, amount: float, tokens: float = 0.0) -> None: ...


@contextmanager
def progress_bar(description: str, total: float | None, unit: str, show: bool) -> Iterator[Advance]:
    """Show done/total, the rate and the time left on standard error while the block runs.

    Yields:
        A function that adds to what is done.
    """
    if not show:
        yield _ignore
        return
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


def progressing(
    items: Iterable[Item], description: str, total: float | None, unit: str, show: bool
) -> Iterator[Item]:
    """The items, under a bar that counts them; for items too many to move it for each."""
    with progress_bar(description, total, unit, show) as advance:
        number = 0
        for number, item in enumerate(items, start=1):
            yield item
            if number % ITEMS_A_MOVE == 0:
                advance(ITEMS_A_MOVE)
        advance(number % ITEMS_A_MOVE)


def _ignore(amount: float, tokens: float = 0.0) -> None:
    """What advances a bar that is not shown."""
