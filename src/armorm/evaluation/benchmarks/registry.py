"""Every known benchmark: those of this package, of installed packages, and registered ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points

from armorm.errors import ArmormError, RecipeError, did_you_mean
from armorm.evaluation.benchmarks.base import Benchmark
from armorm.evaluation.benchmarks.if_reward_bench import IFRewardBench
from armorm.evaluation.benchmarks.judge_bench import JudgeBench
from armorm.evaluation.benchmarks.ppe_preference import PPEPreference
from armorm.evaluation.benchmarks.preference_test_sets import PreferenceTestSets
from armorm.evaluation.benchmarks.reward_bench import RewardBench
from armorm.evaluation.benchmarks.reward_bench_2 import RewardBench2
from armorm.evaluation.benchmarks.rm_bench import RMBench
from armorm.evaluation.benchmarks.rmb import RMB

ENTRY_POINTS = "armorm.benchmarks"
"""Group of entry points through which an installed package adds benchmarks."""

_SHIPPED: Mapping[str, Benchmark] = {
    one.name: one
    for one in (
        RewardBench(),
        RewardBench2(),
        RMBench(),
        JudgeBench(),
        RMB(),
        PPEPreference(),
        IFRewardBench(),
        PreferenceTestSets(),
    )
}
_registered: dict[str, Benchmark] = {}


def benchmarks() -> Mapping[str, Benchmark]:
    """Return every benchmark by its name.

    Raises:
        ArmormError: An installed package offers a benchmark that cannot be loaded.
    """
    return {**_SHIPPED, **_installed(), **_registered}


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of this name.

    Raises:
        RecipeError: There is none; the message names the nearest known ones.
    """
    known = benchmarks()
    if name not in known:
        raise RecipeError(f"There is no benchmark {name!r}. {did_you_mean(name, known)}")
    return known[name]


def register_benchmark(new: Benchmark) -> None:
    """Add a benchmark to this process.

    An entry point of the group ``armorm.benchmarks`` does the same for every process, the command
    line included.

    Raises:
        RecipeError: The name is taken by a benchmark of this package or of an installed one.
    """
    if new.name in _SHIPPED or new.name in _installed():
        raise RecipeError(f"There is a benchmark {new.name!r} already: use another name.")
    _registered[new.name] = new


@functools.cache
def _installed() -> Mapping[str, Benchmark]:
    found: dict[str, Benchmark] = {}
    for point in entry_points(group=ENTRY_POINTS):
        where = f"The entry point {point.name} = {point.value} of the group {ENTRY_POINTS}"
        try:
            new = point.load()()
        except Exception as error:  # code of another package, run for the first time
            raise ArmormError(
                f"{where} cannot be loaded: {error!r}. Repair or uninstall its package."
            ) from error
        if not isinstance(new, Benchmark):
            raise ArmormError(f"{where} is no class derived from armorm's Benchmark.")
        if new.name in _SHIPPED or new.name in found:
            raise ArmormError(
                f"{where} adds a benchmark {new.name!r}, which exists already. Rename it there, "
                "or uninstall its package."
            )
        found[new.name] = new
    return found
