"""Pages of the documentation that are made from the code."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from armorm import Recipe
from armorm.cli.options import Loading
from armorm.evaluation.monitoring import MonitorOptions, ReportingOptions
from armorm.serving.options import BatchingOptions, ReplicaOptions, ServerOptions
from armorm.settings import Options, settings_of

ROOT = Path(__file__).parents[1]


def test_the_options_page_is_up_to_date():
    page = runpy.run_path(str(ROOT / "scripts" / "build_options_page.py"))["page"]()
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == page, (
        "run: python scripts/build_options_page.py"
    )


def classes(options: type[Options]) -> set[type[Options]]:
    inner = [setting.section for setting in settings_of(options)]
    return {options}.union(*(classes(section) for section in inner if section is not None))


@pytest.mark.parametrize(
    "options",
    sorted(
        {
            *classes(Recipe),
            *(Loading, ServerOptions, BatchingOptions, ReplicaOptions),
            *(MonitorOptions, ReportingOptions),
        },
        key=lambda kind: kind.__name__,
    ),
)
def test_each_option_has_a_help_text(options):
    missing = [setting.name for setting in settings_of(options) if not setting.help]
    assert missing == []
