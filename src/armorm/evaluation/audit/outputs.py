"""Files of audits and diffs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from armorm.evaluation.audit.differences import DIFF_FORMAT, DiffReport, GroupDifference
from armorm.evaluation.audit.page import write_audit_page
from armorm.evaluation.audit.rules import RuleResult
from armorm.evaluation.audit.running import AUDIT_FORMAT, AuditReport
from armorm.evaluation.audit.words import diff_in_words, in_words
from armorm.files import check_report_folder, write_json

REPORT_FILE = "audit.json"
PAGE_FILE = "report.html"
LEAST_SHOWN = 0.005
"""Parts of a change that are smaller in every group would show as zero."""


def check_audit_folder(folder: Path) -> None:
    """Check that an audit may be written to a folder.

    Raises:
        OutputError: It would replace a file that no audit wrote.
    """
    check_report_folder(folder, REPORT_FILE, AUDIT_FORMAT, PAGE_FILE)


def write_audit(
    folder: Path,
    report: AuditReport,
    rules: Sequence[RuleResult] = (),
    suspects: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write ``audit.json`` and ``report.html``.

    Args:
        folder: An existing folder.
        report: The audit.
        rules: Verdicts of rules.
        suspects: Training rows with a doubtful rating, by objective
            (:func:`armorm.training.label_suspects`).

    Raises:
        OutputError: A file cannot be written.
    """
    sentences = in_words(report)
    result = {
        **report.as_dict(),
        "summary": [asdict(one) for one in sentences],
        "rules": [one.as_dict() for one in rules],
        "suspects": {
            name: [asdict(row) for row in rows] for name, rows in (suspects or {}).items()
        },
    }
    write_json(folder / REPORT_FILE, result)
    groups = {} if report.objectives is None else report.objectives.groups
    coefficients = [one.value for group in groups.values() for one in group.coefficients.values()]
    write_audit_page(
        folder / PAGE_FILE,
        "audit.html.jinja",
        report=report,
        sentences=sentences,
        rules=rules,
        suspects=suspects or {},
        largest=max((abs(value) for value in coefficients if value is not None), default=0.0)
        or 1.0,
    )


DIFF_FILE = "diff.json"
DIFF_PAGE = "diff.html"
DIFF_TEXT = "diff.md"


def check_diff_folder(folder: Path) -> None:
    """Check that a diff may be written to a folder.

    Raises:
        OutputError: It would replace a file that no diff wrote.
    """
    check_report_folder(folder, DIFF_FILE, DIFF_FORMAT, DIFF_PAGE, DIFF_TEXT)


def write_diff(folder: Path, report: DiffReport, rules: Sequence[RuleResult] = ()) -> None:
    """Write ``diff.json``, ``diff.html``, and ``diff.md``, the text for a pull request.

    Raises:
        OutputError: A file cannot be written.
    """
    sentences = diff_in_words(report)
    result = {
        **report.as_dict(),
        "summary": [asdict(one) for one in sentences],
        "rules": [one.as_dict() for one in rules],
    }
    write_json(folder / DIFF_FILE, result)
    sizes = _part_sizes(report)
    largest_drop = max(abs(group.drop.value or 0.0) for group in report.groups.values())
    moved = {*report.lost_by, *report.gained_by}
    shown = [part for part, size in sizes.items() if size >= LEAST_SHOWN or part in moved]
    values = {
        "report": report,
        "sentences": sentences,
        "rules": rules,
        "shown": shown,
        "hidden": len(sizes) - len(shown),
        "drops": next(end for end in (0.2, 0.5, 1.0) if end >= largest_drop),
        "largest": max(sizes.values(), default=0.0) or 1.0,
    }
    write_audit_page(folder / DIFF_PAGE, "diff.html.jinja", **values)
    write_audit_page(folder / DIFF_TEXT, "diff.md.jinja", **values)


def _part_sizes(report: DiffReport) -> dict[str, float]:
    """Return the largest size of each part in any group, in order of that over all pairs."""

    def size(group: GroupDifference, part: str) -> float:
        return abs(group.parts[part].value or 0.0)

    whole = report.groups["all"]
    ordered = sorted(whole.parts, key=lambda part: -size(whole, part))
    return {part: max(size(group, part) for group in report.groups.values()) for part in ordered}
