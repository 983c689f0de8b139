"""The page of a benchmark: text stays text, figures are drawn, a browser shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from armorm.evaluation.benchmarks.report import BINS, Histogram, write_benchmark_report
from armorm.evaluation.benchmarks.suite import Detail, load_suite, run_suite
from armorm.evaluation.scorers import LengthScorer, RandomScorer, RewardModelScorer
from tests.commands import write
from tests.evaluation import benchmark_files as files
from tests.tiny_models import make_heads

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def page(tiny_backbone, tmp_path_factory) -> Path:
    from armorm import RewardModel

    root = tmp_path_factory.mktemp("page")
    files.rm_bench(root, ["chat", "code", "math", "safety-refuse"] * 6)
    files.reward_bench(root)
    rows = [
        {"prompt": f"hello {i}", "chosen": "ok " * (i % 5 + 1), "rejected": "no", "subset": HOSTILE}
        for i in range(40)
    ]
    pairs = write(root / "pairs.jsonl", [*rows, {"prompt": "x", "chosen": "", "rejected": HOSTILE}])
    names = ["rm-bench", "reward-bench", str(pairs)]
    suite = load_suite(names, root, invalid="skip")
    model = RewardModel(tiny_backbone, make_heads())
    result = run_suite(
        suite,
        {
            "tiny": lambda: RewardModelScorer(model, HOSTILE),
            "length": LengthScorer,
            "random": RandomScorer,
        },
        detail=Detail(objectives=True, fixed_weights=True),
        compare=True,
        invalid="skip",
    )
    return write_benchmark_report(root / "report.html", result)


class Tags(HTMLParser):
    """Tags of a page, with the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_no_text_becomes_html_and_nothing_comes_from_outside(page):
    text = page.read_text()
    parser = Tags()
    parser.feed(text)
    names = [tag for tag, _ in parser.tags]
    assert names.count("script") == 1
    assert "img" not in names
    assert not any(key.startswith("on") for _, found in parser.tags for key in found)
    assert "{{ 7 * 7 }}" in text  # shown, not evaluated
    links = [found.get("href") or found.get("src") for _, found in parser.tags]
    assert all(link is None or link.startswith("#") for link in links)
    assert "url(" not in text
    assert names.count("svg") >= 3 + 3 * 3  # a chart and three histograms of each benchmark


def test_figures_and_published_rows_are_on_the_page(page):
    text = page.read_text()
    assert "Nemotron-4 340B" in text
    assert "ArmoRM + Fixed Weights" in text
    assert "pays for style" in text
    assert "p (Holm)" in text
    assert re.search(r"pairs\.jsonl</td><td>41</td>", text)


def test_a_histogram_holds_every_row_and_splits_at_zero():
    margins = np.random.default_rng(0).normal(1.0, 2.0, 500)
    margins[:7] = 0
    found = Histogram.of("m", margins)
    assert sum(found.counts) == 500
    below = round(found.zero * (BINS + 1))
    assert sum(found.counts[:below]) == (margins <= 0).sum()
    assert Histogram.of("m", np.zeros(3)).counts[0] + sum(Histogram.of("m", np.zeros(3)).counts) > 0
    right = Histogram.of("m", np.array([1.0, 2.0, 3.0]))
    assert (right.zero, sum(right.counts)) == (0, 3)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page_without_errors(page, tmp_path, scheme):
    image = pytest.importorskip("PIL.Image")
    # Headless Chromium has no switch for the scheme; the rule is made to hold instead.
    shown = page.read_text()
    if scheme == "dark":
        shown = shown.replace("(prefers-color-scheme: dark)", "(min-width: 1px)")
    file, picture = tmp_path / "page.html", tmp_path / "page.png"
    file.write_text(shown)
    assert BROWSER is not None
    subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,3000",
         f"--screenshot={picture}", file.as_uri()],
        check=True, capture_output=True, timeout=60, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    pixels = np.asarray(image.open(picture).convert("RGB")).reshape(-1, 3).astype(int)
    background = np.median(pixels, axis=0)
    assert (background.mean() > 200) == (scheme == "light")
    blue = (pixels[:, 2] > pixels[:, 0] + 60) & (pixels[:, 2] > pixels[:, 1] + 20)
    assert blue.sum() > 300  # the first model's points and intervals
    assert (np.abs(pixels - background).max(axis=1) > 100).mean() > 0.01  # text
