"""Benchmarks of reward models: one file each, with its rows and its score rule.

A benchmark of another package is found through an entry point of the group ``armorm.benchmarks``
that names a :class:`Benchmark` class, or added to this process by :func:`register_benchmark`.
"""

from armorm.evaluation.benchmarks.base import Benchmark, BenchmarkReport
from armorm.evaluation.benchmarks.preference_pairs import PreferenceBenchmark
from armorm.evaluation.benchmarks.registry import benchmark, benchmarks, register_benchmark
from armorm.evaluation.benchmarks.reward_bench import RewardBench

__all__ = [
    "Benchmark",
    "BenchmarkReport",
    "PreferenceBenchmark",
    "RewardBench",
    "benchmark",
    "benchmarks",
    "register_benchmark",
]
