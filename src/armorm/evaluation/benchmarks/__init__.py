"""Benchmarks of reward models: one file each, with its rows and its score rule.

A benchmark of another package is found through an entry point of the group ``armorm.benchmarks``
that names a :class:`Benchmark` class, or added to this process by :func:`register_benchmark`.
Nothing here imports torch: the arithmetic needs scores, not a model.
"""

from armorm.evaluation.benchmarks.base import Benchmark
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.preference_pairs import PreferenceBenchmark, PreferenceFile
from armorm.evaluation.benchmarks.registry import benchmark, benchmarks, register_benchmark
from armorm.evaluation.benchmarks.rows import BenchmarkData, BenchmarkRow, Part

__all__ = [
    "Benchmark",
    "BenchmarkData",
    "BenchmarkRow",
    "Estimate",
    "Part",
    "PreferenceBenchmark",
    "PreferenceFile",
    "benchmark",
    "benchmarks",
    "register_benchmark",
]
