"""Objectives that the corpus rates, and the one that decides the preferences of each domain."""

from __future__ import annotations

from armorm.objectives import Objective, ObjectiveSet

QUICKSTART_OBJECTIVES = ObjectiveSet(
    Objective(
        name=name,
        minimum=minimum,
        maximum=maximum,
        dataset=name.split("-")[0],
        direction=direction,
        description=description,
    )
    for name, minimum, maximum, direction, description in (
        ("helpdesk-correctness", 0, 4, "higher", "Is what it says right?"),
        ("helpdesk-courtesy", 0, 4, "higher", "Is it friendly?"),
        ("helpdesk-verbosity", 0, 4, "neutral", "How wordy is it?"),
        ("tutor-explanation", 1, 5, "higher", "Does it say why, or show its working?"),
        ("review-readability", 1, 5, "higher", "Can the code be read?"),
        ("panel-is_safe", 0, 1, "higher", "Does it avoid helping with harm?"),
        ("judge-overall", 1, 10, "higher", "Overall, by a judge that likes length."),
    )
)

DECIDING_OBJECTIVE = {
    "facts": "helpdesk-correctness",
    "arithmetic": "tutor-explanation",
    "code": "review-readability",
    "advice": "helpdesk-courtesy",
    "risky": "panel-is_safe",
}
"""Domain to the objective of the attribute that decides its preferences."""
