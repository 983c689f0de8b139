"""Audits of what a reward pays for, one file per detector, and diffs of two models."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.evaluation.audit.differences import DiffReport, diff
    from armorm.evaluation.audit.options import AuditOptions
    from armorm.evaluation.audit.outputs import (
        check_audit_folder,
        check_diff_folder,
        write_audit,
        write_diff,
    )
    from armorm.evaluation.audit.rules import Rule, RuleResult, apply_rules
    from armorm.evaluation.audit.running import AuditReport, audit
    from armorm.evaluation.audit.words import Sentence, diff_in_words, in_words

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "armorm.evaluation.audit.outputs": (
            "check_audit_folder",
            "check_diff_folder",
            "write_audit",
            "write_diff",
        ),
        "armorm.evaluation.audit.rules": ("Rule", "RuleResult", "apply_rules"),
        "armorm.evaluation.audit.differences": ("DiffReport", "diff"),
        "armorm.evaluation.audit.options": ("AuditOptions",),
        "armorm.evaluation.audit.running": ("AuditReport", "audit"),
        "armorm.evaluation.audit.words": ("Sentence", "diff_in_words", "in_words"),
    },
)

__all__ = [
    "AuditOptions",
    "AuditReport",
    "DiffReport",
    "Rule",
    "RuleResult",
    "Sentence",
    "apply_rules",
    "audit",
    "check_audit_folder",
    "check_diff_folder",
    "diff",
    "diff_in_words",
    "in_words",
    "write_audit",
    "write_diff",
]
