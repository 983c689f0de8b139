"""Several scorers on several benchmarks: what ``armorm benchmark`` does and prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armorm.conversations import prompt_key
from armorm.data.sources import ARROW, JSON_LINES, InvalidPolicy
from armorm.errors import ArmormError, InputError, RecipeError, did_you_mean
from armorm.evaluation.benchmarks.base import Benchmark
from armorm.evaluation.benchmarks.preference_pairs import PreferenceBenchmark, PreferenceFile
from armorm.evaluation.benchmarks.registry import benchmarks
from armorm.evaluation.benchmarks.results import BenchmarkResult
from armorm.evaluation.benchmarks.reward_bench_files import (
    is_rewardbench_outputs,
    read_rewardbench_outputs,
)
from armorm.evaluation.benchmarks.rm_bench import RMBench
from armorm.evaluation.benchmarks.rows import BenchmarkData
from armorm.evaluation.benchmarks.running import score_rows
from armorm.evaluation.benchmarks.scores import read_scores
from armorm.evaluation.scorers.base import Scorer
from armorm.version import __version__

if TYPE_CHECKING:
    from armorm.evaluation.compare import ModelComparison

ALL = "all"
RESULTS_FORMAT = "armorm-benchmark"
"""Name of the format of the results."""

_DATASET = re.compile(r"[\w.-]+(/[\w.-]+)?@[\w.-]+")


def named_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark, or the preference pairs, that an argument names; else None.

    A name of the catalogue is a benchmark; a file of rows, a pattern, and ``DATASET@SPLIT`` of the
    hub are preference pairs.
    """
    known = benchmarks()
    if name in known:
        return known[name]
    suffixes = Path(name.removesuffix(".gz")).suffix
    is_file = suffixes in (*JSON_LINES, ".parquet", *ARROW) and not Path(name).is_dir()
    if is_file or "*" in name or _DATASET.fullmatch(name):
        return PreferenceFile(name)
    return None


@dataclass(slots=True)
class Suite:
    """Rows of benchmarks.

    Attributes:
        loaded: Benchmarks with their rows, in order.
        absent: Benchmarks whose data cannot be had, with the reason.
    """

    loaded: list[tuple[Benchmark, BenchmarkData]] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def load_suite(
    names: Iterable[str],
    root: Path | None = None,
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> Suite:
    """Read the rows of benchmarks.

    Args:
        names: Names that :func:`named_benchmark` knows, or ``all``: every benchmark of the
            catalogue whose data can be had.
        root: A folder that holds local copies.
        invalid: ``error`` stops at a bad row; ``skip`` counts and lists it.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: A row is bad.
        ArmormError: The data of a benchmark that is named cannot be had, or that of none of all.
    """
    suite = Suite()
    asked: dict[str, Benchmark] = {}
    optional: set[str] = set()
    for name in names:
        if name == ALL:
            optional |= benchmarks().keys() - asked.keys()
            asked |= benchmarks()
        elif (found := named_benchmark(name)) is not None:
            asked[name] = found
            optional.discard(name)
    for name, found in asked.items():
        try:
            data = found.read(root, invalid=invalid, show_progress=show_progress)
        except InputError:
            raise
        except ArmormError as error:
            if name not in optional:
                raise
            suite.absent[name] = str(error)
        else:
            suite.loaded.append((found, data))
    if not suite.loaded:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in suite.absent.items())
        raise ArmormError(f"The data of no benchmark can be had:{reasons}")
    return suite


@dataclass(frozen=True, slots=True)
class Detail:
    """Parts of a report besides the figures of the scores.

    Attributes:
        objectives: Figures of each objective alone, of models that have objectives.
        fixed_weights: Figures with the fixed weights that were trained beside the gate, or, where
            a model holds none, with the mean of the gate's coefficients.
    """

    objectives: bool = False
    fixed_weights: bool = False


@dataclass(slots=True)
class SuiteResult:
    """Results of all scorers on all benchmarks.

    Attributes:
        results: Results by benchmark, each in the order of the scorers.
        absent: Benchmarks whose data could not be had, with the reason.
        comparisons: Paired comparisons by benchmark, if they were asked for.
    """

    results: dict[str, list[BenchmarkResult]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    comparisons: dict[str, list[ModelComparison]] = field(default_factory=dict)

    @property
    def scorers(self) -> list[str]:
        """Names of the scorers."""
        return [result.scorer for result in next(iter(self.results.values()))]

    def as_dict(self) -> dict[str, Any]:
        """Return all results as JSON holds them."""
        return {
            "format": RESULTS_FORMAT,
            "format_version": 1,
            "armorm": __version__,
            "benchmarks": {
                name: [result.as_dict() for result in results]
                for name, results in self.results.items()
            },
            "comparisons": {
                name: [one.as_dict() for one in found] for name, found in self.comparisons.items()
            },
            "absent": dict(self.absent),
        }


def run_suite(
    suite: Suite,
    scorers: Mapping[str, Callable[[], Scorer]],
    folder: Path | None = None,
    *,
    detail: Detail | None = None,
    compare: bool = False,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> SuiteResult:
    """Score every benchmark with every scorer.

    Args:
        suite: The benchmarks with their rows.
        scorers: How each scorer is opened; one at a time is open.
        folder: Folder of scores; see :func:`score_rows`.
        detail: What is reported besides.
        compare: Test every pair of scorers on the rows that both could score.
        invalid: ``error`` stops at a row without scores; ``skip`` counts and lists it.
        show_progress: Draw progress bars on standard error.

    Raises:
        InputError: A row has no scores.
        ArmormError: A scorer has no score for any row, or the folder holds scores of another one.
    """
    result = SuiteResult(absent=suite.absent)
    names: set[str] = set()
    for spec, open_scorer in scorers.items():
        with closing(open_scorer()) as scorer:
            if scorer.name in names:  # one judge behind two addresses
                scorer.name = spec
            names.add(scorer.name)
            for one, data in suite.loaded:
                scores = score_rows(
                    scorer, one.name, data, folder, invalid=invalid, show_progress=show_progress
                )
                found = report(one, data, scores, scorer, detail or Detail())
                result.results.setdefault(one.name, []).append(found)
    if compare:
        result.comparisons = {
            name: compare_results(results) for name, results in result.results.items()
        }
    return result


def report(
    benchmark: Benchmark,
    data: BenchmarkData,
    scores: Sequence[Any],
    scorer: Scorer,
    detail: Detail,
) -> BenchmarkResult:
    """Return the result of a scorer; RM-Bench always has the figures of each objective."""
    by_objective = detail.objectives or isinstance(benchmark, RMBench)
    return BenchmarkResult.of(
        benchmark,
        data,
        scores,
        scorer.name,
        objectives=scorer.objectives if by_objective else (),
        fixed_weights=detail.fixed_weights and bool(scorer.objectives),
        fixed_coefficients=getattr(scorer, "fixed_coefficients", None),
        account=scorer.account,
    )


def given_result(
    file: Path,
    name: str | None,
    root: Path | None = None,
    *,
    invalid: InvalidPolicy = "error",
) -> SuiteResult:
    """Return the result of scores that were made elsewhere, on one benchmark; needs no torch.

    Args:
        file: Rows ``{"id", "scores"}`` in the order of the benchmark, or RewardBench's own
            ``_outputs.jsonl``, which holds the pairs as well.
        name: The benchmark; of ``_outputs.jsonl`` the rule to report by, else accuracy on pairs.
        root: A folder that holds a local copy of the benchmark.
        invalid: ``skip`` reads over the benchmark's bad rows.

    Raises:
        InputError: The file does not hold one row of finite scores for each of the benchmark's.
        RecipeError: No benchmark is named.
    """
    if not file.is_file():
        raise RecipeError(f"There is no file of scores {str(file)!r}.")
    chosen = None if name is None else named_benchmark(name)
    if is_rewardbench_outputs(file) and (name is None or chosen is not None):
        chosen = chosen or PreferenceBenchmark()
        if not isinstance(chosen, PreferenceBenchmark):
            raise RecipeError(
                f"{file} holds pairs, as RewardBench's program writes them, which the rule of "
                f"{name} cannot score. Give rows {{id, scores}}, or leave out {name}."
            )
        data, scores = read_rewardbench_outputs(file)
        chosen.check_subsets(data)
    elif chosen is None:
        raise RecipeError(
            f"{file}: name the benchmark that the scores are of"
            + ("." if name is None else f". {name!r}: {did_you_mean(name, benchmarks())}")
        )
    else:
        data = chosen.read(root, invalid=invalid)
        scores = read_scores(file, data)
    result = BenchmarkResult.of(chosen, data, scores, file.name)
    return SuiteResult({chosen.name: [result]})


def compare_results(results: Sequence[BenchmarkResult]) -> list[ModelComparison]:
    """Compare every pair of scorers on the rows that all of them scored (Holm's correction)."""
    from armorm.evaluation.compare import compare_models

    if len(results) < 2:
        return []
    shared = sorted(set.intersection(*(set(result.kept) for result in results)))
    if not shared:
        raise ArmormError(
            f"{results[0].benchmark}: no row has scores of all models, so there is nothing to "
            "compare them on."
        )
    credits_of = {}
    for result in results:
        credit = dict(zip(result.kept, result.credits, strict=True))
        credits_of[result.scorer] = [credit[place] for place in shared]
    rows = dict(zip(results[0].kept, results[0].rows, strict=True))
    return compare_models(credits_of, groups=[prompt_key(rows[place].prompt) for place in shared])
