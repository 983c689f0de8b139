"""Figures for programs and pages for people, from the same objects."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.evaluation.preferences import PreferenceReport, evaluate, report_on
    from armorm.evaluation.report import write_run_report
    from armorm.evaluation.scorers import ScoredRow, ScoredRows, Scorer, open_scorer, score_all

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        # The arithmetic on scores made elsewhere does not wait for torch.
        "armorm.evaluation.preferences": ("PreferenceReport", "evaluate", "report_on"),
        "armorm.evaluation.report": ("write_run_report",),
        "armorm.evaluation.scorers": (
            "ScoredRow",
            "ScoredRows",
            "Scorer",
            "open_scorer",
            "score_all",
        ),
    },
)

__all__ = [
    "PreferenceReport",
    "ScoredRow",
    "ScoredRows",
    "Scorer",
    "evaluate",
    "open_scorer",
    "report_on",
    "score_all",
    "write_run_report",
]
