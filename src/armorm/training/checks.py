"""Checks of a recipe and its data, before the hours that extracting features can take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from importlib.util import find_spec

from armorm.conversations import PreferencePair, RatedResponse, prompt_key
from armorm.data import Loaded
from armorm.errors import ArmormError, MissingExtraError
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder


def check_before_reading(recipe: Recipe, run: RunFolder) -> None:
    """Check all that does not depend on the data: the output and the installed extras.

    Raises:
        MissingExtraError: The recipe needs a package that is not installed.
        OutputError: An output cannot be written.
    """
    adapters = recipe.head.method == "finetune" and recipe.head.finetune.lora is not None
    if recipe.pretraining is not None:
        adapters = adapters or recipe.pretraining.lora is not None
    needed = (
        ("Bradley–Terry pre-training", "trl", "train", recipe.pretraining is not None),
        ("Training adapters", "peft", "train", adapters),
        ("gate.report_to: tensorboard", "tensorboard", "log", recipe.gate.report_to != "none"),
        ("backbone.engine: vllm", "vllm", "vllm", recipe.backbone.engine == "vllm"),
    )
    for purpose, package, extra, is_needed in needed:
        if is_needed and find_spec(package) is None:
            raise MissingExtraError(purpose, extra)
    run.check_writable()


def check_rows(recipe: Recipe, rated: Loaded[RatedResponse], pairs: Loaded[PreferencePair]) -> None:
    """Check that both stages can be trained on the rows, and reported.

    Raises:
        ArmormError: Rows are missing; the message says which and what to do.
    """
    for kind, loaded in (("rated responses", rated), ("preference pairs", pairs)):
        if not loaded.rows:
            raise ArmormError(f"The recipe's sources hold no valid {kind}: {loaded.tally}.")
    _check_ratings(recipe, rated.rows)
    _check_pairs(recipe, pairs.rows)


def _check_ratings(recipe: Recipe, rows: Sequence[RatedResponse]) -> None:
    training: Counter[str] = Counter()
    for row in rows:
        if not row.held_out:
            training.update(row.ratings.keys())
    objectives = recipe.objective_set()
    rated = [name for name in objectives.names if name not in objectives.computed]
    unrated = [name for name in rated if not training[name]]
    if unrated:
        raise ArmormError(
            f"{_listed('objective', unrated)} has no rating in the data that are trained on. Add "
            "rated rows, or take it out of the recipe's objectives."
        )


def _check_pairs(recipe: Recipe, pairs: Sequence[PreferencePair]) -> None:
    prompts: set[str] = set()
    sources: Counter[str] = Counter()
    held_out = 0
    for pair in pairs:
        if pair.held_out:
            held_out += 1
        else:
            prompts.add(prompt_key(pair.prompt))
            sources[pair.source] += 1
    rule = recipe.data.held_out
    if not held_out:
        where = "data.held_out.fraction" if rule.column is None else "data.held_out.values"
        raise ArmormError(
            f"No preference pair is held out ({where}), so the trained model could not be "
            "measured. Hold some out."
        )
    if len(prompts) < FEWEST_PROMPTS:
        raise ArmormError(
            f"Stage 2 needs pairs of at least {FEWEST_PROMPTS} prompts to train on; the recipe's "
            f"data have {len(prompts)}, and {held_out:,} held-out pairs. Add preference data, or "
            "hold out fewer."
        )
    known = sources.keys() | {pair.source for pair in pairs if pair.held_out}
    if unknown := [name for name in recipe.data.sources_left_out if name not in known]:
        raise ArmormError(
            f"data.leave_out: {_listed('source', unknown)} gives no preference pair. Sources: "
            f"{', '.join(sorted(known))}."
        )
    if recipe.data.leaves_each_out and len(known) < 2:
        raise ArmormError(
            "Leaving out each source needs preference pairs of at least 2 sources; these are all "
            f"of {', '.join(known)}."
        )
    reference = recipe.debiasing.reference
    if recipe.debiasing.objective is not None and reference is not None:
        _check_reference(reference, sources)


FEWEST_PROMPTS = 2
"""Training prompts that the linear head's penalty and a validation set need."""


def _check_reference(reference: Sequence[str], sources: Collection[str]) -> None:
    if unknown := [name for name in reference if name not in sources]:
        raise ArmormError(
            f"debiasing.reference: {_listed('source', unknown)} gives no training pair. Sources of "
            f"training pairs: {', '.join(sorted(sources))}."
        )


def _listed(kind: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{kind} {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
