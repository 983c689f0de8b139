"""Figures for programs and pages for people, from the same objects."""

from armorm.evaluation.preferences import PreferenceReport, evaluate, report_on
from armorm.evaluation.report import write_run_report
from armorm.evaluation.scored_rows import ScoredRow, ScoredRows, score_all

__all__ = [
    "PreferenceReport",
    "ScoredRow",
    "ScoredRows",
    "evaluate",
    "report_on",
    "score_all",
    "write_run_report",
]
