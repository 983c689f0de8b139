"""Options of the drift monitor."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from armorm.errors import did_you_mean
from armorm.evaluation.monitoring.markup import MEASURES
from armorm.settings import Options


class MonitorOptions(Options):
    """Options of the tests: baseline, false alarms, streams.

    Example:
        >>> from armorm.evaluation.monitoring import MonitorOptions
        >>> MonitorOptions(false_alarm=0.001).baseline
        128
    """

    baseline: int = Field(default=128, ge=32)
    """Prompts, each with all its responses, that the baseline is learned from: the first ones. A
    quarter of them sets the scales, the rest is what later ones are ranked among."""
    false_alarm: float = Field(default=0.01, gt=0, lt=1)
    """Probability that any stream ever rings an alarm although nothing changes, at most."""
    run_length: int | None = Field(default=None, ge=1)
    """Instead of false_alarm, for what never ends: the mean number of steps until the first alarm
    although nothing changes, at least."""
    unfamiliar_share: float = Field(default=0.05, gt=0, lt=1)
    """Alarm if more than this share of the responses is more novel than 99 % of held-out rated rows
    are. It needs no baseline."""
    texts: tuple[str, ...] = ("length", "markup", "flattery")
    """Measures of the responses' text that are streams."""
    recent: int = Field(default=1024, ge=64)
    """Prompts whose numbers are remembered, to estimate when a change began, and its size."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random numbers that break ties of ranks."""

    @field_validator("texts")
    @classmethod
    def _check_texts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in MEASURES:
                hint = did_you_mean(name, MEASURES)
                raise ValueError(f"{name!r} is no measure of a text. {hint}")
        return tuple(dict.fromkeys(names))


class ReportingOptions(Options):
    """Options of what an alarm does: webhook, nearest rated rows, saved state.

    Example:
        >>> from armorm.evaluation.monitoring import ReportingOptions
        >>> ReportingOptions(webhook="http://127.0.0.1:9000/alarm").webhook_timeout
        5.0
    """

    webhook: str | None = None
    """Address that each alarm is sent to, as JSON by POST."""
    webhook_timeout: float = Field(default=5.0, gt=0, le=60)
    """Seconds that the webhook may take; it is tried three times."""
    store: Path | None = None
    """Run folder of `armorm train`, whose rated rows nearest to what is scored an alarm names."""
    state: Path | None = None
    """File that the monitor's state is saved in after each step, and resumed from."""
    step: int = Field(default=256, ge=1)
    """Responses that arrive one by one are gathered into steps of this many."""

    @field_validator("webhook")
    @classmethod
    def _check_webhook(cls, address: str | None) -> str | None:
        if address is not None and not address.startswith(("http://", "https://")):
            raise ValueError("not an address that begins with http:// or https://")
        return address
