"""Files of a run of ``armorm benchmark``: ours, and those that other programs read.

==============================================  ================================================
``results.json``                                all results
``report.html``                                 the page for people (extra ``report``)
``scores/<benchmark>/<model>.jsonl``            scores of every row; ``--scores`` reads them
``rewardbench/<benchmark>/<model>*.json*``      RewardBench's own files, of pairs
``reward-bench-2/<model>.json``                 the row of RewardBench 2's board
``every_eval_ever/<benchmark>/<developer>/…``   the schema of evaleval/every_eval_ever
==============================================  ================================================
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from armorm.evaluation.benchmarks.base import Benchmark
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.preference_pairs import PreferenceFile
from armorm.evaluation.benchmarks.registry import benchmarks
from armorm.evaluation.benchmarks.report import write_benchmark_report
from armorm.evaluation.benchmarks.results import BenchmarkResult
from armorm.evaluation.benchmarks.reward_bench_2 import SUBSETS, RewardBench2
from armorm.evaluation.benchmarks.reward_bench_files import (
    Render,
    has_rewardbench_rows,
    plain_text,
    write_rewardbench_results,
)
from armorm.evaluation.benchmarks.running import file_name
from armorm.evaluation.benchmarks.suite import RESULTS_FORMAT, SuiteResult
from armorm.files import check_report_folder, sha256_of_json, write_json
from armorm.version import __version__

EVERY_EVAL_EVER = "0.3.0"
"""Version of the schema that the files are written in."""


RESULTS_FILE = "results.json"
PAGE_FILE = "report.html"


def check_results_folder(folder: Path) -> None:
    """Check that results may be written to a folder.

    Raises:
        OutputError: They would replace a file that no benchmark run wrote.
    """
    check_report_folder(folder, RESULTS_FILE, RESULTS_FORMAT, PAGE_FILE)


def write_results(
    folder: Path, result: SuiteResult, renders: Mapping[str, Render] | None = None
) -> None:
    """Write all files but the scores, which are there already.

    Args:
        folder: The output folder.
        result: Results of all scorers on all benchmarks.
        renders: Turns a conversation into the text that a scorer read, by its name.

    Raises:
        OutputError: A file cannot be written.
    """
    write_json(folder / RESULTS_FILE, result.as_dict())
    write_benchmark_report(folder / PAGE_FILE, result)
    for name, found in result.results.items():
        for one in found:
            model = file_name(one.scorer)
            if has_rewardbench_rows(one):
                render = (renders or {}).get(one.scorer, plain_text)
                place = folder / "rewardbench" / file_name(name)
                write_rewardbench_results(place, model, one, render)
            if name == RewardBench2.name:
                write_json(folder / RewardBench2.name / f"{model}.json", board_row(one))
            record = every_eval_ever(one)
            # The validator takes version 4 ids only; this one is the same for the same run.
            identity = uuid.UUID(sha256_of_json(record["evaluation_id"])[:32], version=4)
            place = folder / "every_eval_ever" / file_name(name) / record["model_info"]["id"]
            write_json(place / f"{identity}.json", record)


def board_row(result: BenchmarkResult) -> dict[str, Any]:
    """Return the row of RewardBench 2's board; a subset without rows has no figure."""
    return {
        "model": result.scorer,
        "model_type": "Seq. Classifier",
        "chat_template": None,
        **{name: result.whole.figures[name].value for name in sorted(SUBSETS)},
    }


def every_eval_ever(result: BenchmarkResult) -> dict[str, Any]:
    """Return a result in the schema of evaleval/every_eval_ever, a figure without value left out.

    Its id depends on the scores, so the same run has the same id.  The schema asks where a model
    runs and whether its weights are open; a folder does not say.
    """
    model = result.scorer if re.fullmatch(r"[\w.-]+/[\w.-]+", result.scorer) else None
    model_id = model or f"local/{file_name(result.scorer)}"
    scores = sha256_of_json([one.tolist() for one in result.scores])[:12]
    return {
        "schema_version": EVERY_EVAL_EVER,
        "evaluation_id": f"{result.benchmark}/{model_id.replace('/', '_')}/{scores}",
        "retrieved_timestamp": f"{time.time():.3f}",
        "source_metadata": {
            "source_name": "armorm benchmark",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "armorm", "version": __version__},
        "model_info": {
            "name": result.scorer,
            "id": model_id,
            "developer": model_id.split("/")[0],
            "additional_details": {"deployment_type": "unknown", "model_availability": "unknown"},
        },
        "evaluation_results": [
            _metric(result, name, estimate)
            for name, estimate in {**result.whole.subsets, **result.whole.figures}.items()
            if estimate.value is not None
        ],
    }


def _metric(result: BenchmarkResult, name: str, estimate: Estimate) -> dict[str, Any]:
    lowest, highest = _bounds(name)
    uncertainty: dict[str, Any] = {"num_samples": estimate.n}
    if estimate.low is not None:
        uncertainty["confidence_interval"] = {
            "lower": estimate.low,
            "upper": estimate.high,
            "confidence_level": 0.95,
            "method": estimate.method,
        }
    about = benchmarks().get(result.benchmark, PreferenceFile(result.benchmark)).about
    return {
        "evaluation_name": f"{result.benchmark}.{name}",
        "source_data": _source(benchmarks().get(result.benchmark), result),
        "metric_config": {
            "evaluation_description": f"{about} {name}; equal scores count as wrong.",
            "metric_name": name,
            "metric_id": f"{result.benchmark}.{name}",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": lowest,
            "max_score": highest,
        },
        "score_details": {"score": estimate.value, "uncertainty": uncertainty},
    }


def _source(benchmark: Benchmark | None, result: BenchmarkResult) -> dict[str, Any]:
    parts = [] if benchmark is None else [part for part in benchmark.parts if part.hub_id]
    name = {"dataset_name": result.benchmark}
    if not parts:
        return {**name, "source_type": "other"}
    if not parts[0].on_hub:
        return {**name, "source_type": "url", "url": [f"https://github.com/{parts[0].hub_id}"]}
    return {
        **name,
        "source_type": "hf_dataset",
        "hf_repo": parts[0].hub_id,
        "hf_split": parts[0].split,
        "samples_number": result.data["read"],
    }


def _bounds(name: str) -> tuple[float, float]:
    """Return the least and the largest value that a figure can have."""
    if name in ("Ties", "score"):  # of RewardBench 2; those of others lie within
        return -0.01, 1.01
    correlation = name.startswith(("tau", "row-wise", "Spearman", "Kendall"))
    return (-1.0, 1.0) if correlation else (0.0, 1.0)
