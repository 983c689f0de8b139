"""Commands that must answer without waiting for torch: one table of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from armorm.evaluation.benchmarks import benchmark
from tests.commands import all_commands, write
from tests.evaluation import benchmark_files

HEAVY = ("torch", "transformers", "datasets", "ray", "vllm", "matplotlib", "gradio")

COMMANDS = [
    "--version",
    "recipe",
    "recipe quickstart",
    "schema recipe",
    "data list",
    "data show quickstart",
    "benchmark --scores scores.jsonl reward-bench-2 --from hub",
    "view scored.jsonl -o page.html",
]
"""They run in a folder that holds what :func:`place` writes."""

SECONDS = 3.0
"""Processor time within which each of them ends; importing torch alone takes longer."""

PROBE = """
import json, os, sys
from armorm.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    used = os.times()
    heavy = [name for name in json.loads({heavy!r}) if name in sys.modules]
    print(json.dumps([end.code, heavy, used.user + used.system]), file=sys.stderr)
"""


def run(arguments: list[str], place: Path) -> tuple[int, list[str], float]:
    """Run a command; return its exit code, the heavy libraries imported, and processor seconds."""
    script = PROBE.format(heavy=json.dumps(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=place, capture_output=True, text=True
    )
    code, heavy, seconds = json.loads(done.stderr.splitlines()[-1])
    return code, heavy, seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a benchmark and scores of its rows."""
    folder = tmp_path_factory.mktemp("without-torch")
    benchmark_files.reward_bench_2(folder / "hub")
    rows = benchmark("reward-bench-2").read(folder / "hub").rows
    given = [{"id": row.id, "scores": list(range(len(row.responses)))} for row in rows]
    write(folder / "scores.jsonl", given)
    numbers = {"rewards": {"tone": 1.0}, "coefficients": {"tone": 0.5}, "gating": {"tone": 0.5}}
    row = {"prompt": "hello", "response": "ok", "score": 0.5, **numbers}
    write(folder / "scored.jsonl", [row])
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_answers_without_torch(command, place):
    code, heavy, seconds = run(command.split(), place)
    assert (code, heavy) == (0, [])
    assert seconds < SECONDS


def test_no_help_waits_for_torch(place):
    """All in one process, which shows the first that imports something heavy."""
    script = f"""
import sys
from armorm.cli import main
for words in {[[], *map(list, all_commands())]!r}:
    try:
        main([*words, "--help"])
    except SystemExit as end:
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        assert not end.code and not heavy, (words, end, heavy)
"""
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("module", ["armorm", "armorm.training.recipe", "armorm.objectives"])
def test_a_module_imports_without_torch(module):
    probe = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
