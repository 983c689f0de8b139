"""Jobs without a model, so that their workers start at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from armorm.errors import InputError
from armorm.jobs.pools import Workers

TWO = Workers(count=2)
SCORING: dict[str, Any] = {"workers": TWO, "skip_invalid": True, "rows_at_once": 32}


class LightJob:
    """A task may tell how many of the processes that begin it die, or that its row is bad."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.log = Path(settings["log"])

    def describe(self) -> dict[str, Any]:
        return {}

    def make(self, task: Mapping[str, Any]) -> dict[str, Any]:
        number = str(task["number"])
        with self.log.open("a") as log:
            log.write(f"{number}\n")
        if self.log.read_text().split().count(number) <= task.get("deaths", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if "bad" in task:
            raise InputError("response", task["bad"], "empty", "Write one.", "in.jsonl", 7)
        return {"number": task["number"]}
