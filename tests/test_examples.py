"""Every example of the package, the README and the docs runs, and shows the output it has.

A fenced ``python`` or ``sh`` block is run in the order of its page unless the line before it says
``<!-- not run: why -->``; a ``text`` block right after an ``sh`` block is what it prints. Blocks
and docstrings find the trained example as ``runs/quickstart``.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import armorm
from tests.shown_output import ShownOutput, is_as_shown

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCK = re.compile(
    r"^(<!-- not run: [^\n]+ -->\n)?```(python|sh)\n(.*?)^```(?:\n\n```text\n(.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)
QUESTIONS = {"what", "whether", "how", "of", "which", "who", "whose", "why", "where", "when"}
NEEDS_OTHERS = ("armorm.vllm_plugin", "armorm.features.vllm_backbone", "armorm.integrations.verl")


@pytest.fixture
def place(quickstart_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder as a reader's is: recipes/ and runs/quickstart are there."""
    (tmp_path / "runs").mkdir()
    shutil.copytree(quickstart_run, tmp_path / "runs" / "quickstart")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def modules() -> Iterator[str]:
    """Yield the names of the modules that have an example in a docstring."""
    for file in sorted(SOURCE.rglob("*.py")):
        name = ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        if ">>>" in file.read_text(encoding="utf-8") and not name.startswith(NEEDS_OTHERS):
            yield name


def run_doctest(test: doctest.DocTest) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(ShownOutput(), optionflags=FLAGS)
    runner.run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", list(modules()))
def test_examples_of_docstrings(place, name):
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        if test.examples:
            run_doctest(test)


def test_most_pages_run_their_examples():
    """Blocks run unless their page says why not; a pattern that finds none would test nothing."""
    blocks = [block for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert sum(not skipped for skipped, *_ in blocks) >= 32


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("score 0.784\n...\nend", "score   0.781\nmore\nend", True),
        ("score 0.784", "score 0.7", False),
        ("3 rows", "4 rows", False),
        ("0.784", "0.784 more", False),
    ],
)
def test_shown_output(shown, printed, same):
    assert is_as_shown(shown, printed) == same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_pages(place, page):
    names: dict[str, object] = {}
    for skipped, language, code, shown in BLOCK.findall(page.read_text(encoding="utf-8")):
        if skipped:
            continue
        if language == "sh":
            printed = run_shell(code)
            assert not shown or is_as_shown(shown, printed), f"{code}\n{printed}"
        elif ">>>" in code:
            test = doctest.DocTestParser().get_doctest(code, names, page.name, None, 0)
            run_doctest(test)
            names.update(test.globs)  # later blocks of the page go on with them
        else:
            exec(compile(code, page.name, "exec"), names)


def run_shell(code: str) -> str:
    """Run shell commands as in a terminal of 80 columns, and return what they printed."""
    python = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-euc", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "80", "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("name", armorm.__all__)
def test_each_public_name_has_an_example(name):
    if not isinstance(getattr(armorm, name), str | int | tuple):
        example = (getattr(armorm, name).__doc__ or "").partition("Example:")[2]
        assert ">>>" in example


def docstrings() -> Iterator[tuple[str, str]]:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield f"{file.relative_to(SOURCE)}: {getattr(node, 'name', 'module')}", text


def test_no_docstring_opens_with_a_question_word():
    opened = [
        place for place, text in docstrings() if text.split()[0].lower().strip(",:") in QUESTIONS
    ]
    assert opened == []


def test_no_test_module_imports_another():
    pattern = re.compile(r"(from|import) tests\.(\w+\.)*test_\w+")
    importing = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("*.py")
        if pattern.search(file.read_text(encoding="utf-8"))
    ]
    assert importing == []
