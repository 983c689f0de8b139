"""Audits: what does a reward pay for?  One file per detector."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.evaluation.audit.options import AuditOptions
    from armorm.evaluation.audit.outputs import write_audit
    from armorm.evaluation.audit.rules import Rule, RuleResult, apply_rules
    from armorm.evaluation.audit.running import AuditReport, audit
    from armorm.evaluation.audit.words import Sentence, in_words

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "armorm.evaluation.audit.outputs": ("write_audit",),
        "armorm.evaluation.audit.rules": ("Rule", "RuleResult", "apply_rules"),
        "armorm.evaluation.audit.options": ("AuditOptions",),
        "armorm.evaluation.audit.running": ("AuditReport", "audit"),
        "armorm.evaluation.audit.words": ("Sentence", "in_words"),
    },
)

__all__ = [
    "AuditOptions",
    "AuditReport",
    "Rule",
    "RuleResult",
    "Sentence",
    "apply_rules",
    "audit",
    "in_words",
    "write_audit",
]
