"""Model card: README.md of a model folder, written by huggingface_hub's own classes."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from armorm.data.catalog import CatalogEntry, catalog_entry
from armorm.data.licences import combined, non_commercial
from armorm.errors import RecipeError
from armorm.model.layout import LICENCES
from armorm.objectives import ObjectiveSet

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
PAPER = "arxiv:2406.12845"
# Characters that begin markup inside a line of Markdown.
_MARKUP = re.compile(r"[`*\[\]()!|\\~#$@:{}]|(?<!\w)_|_(?!\w)")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    *,
    objectives: ObjectiveSet,
    backbone: str,
    debiasing: Mapping[str, Any],
    training: Mapping[str, Any],
    license_id: str | None,
    steering: Mapping[str, Any] | None = None,
) -> str:
    """Return the card as Markdown with a YAML header.

    Every text that comes from a recipe or a dataset is escaped: a name is shown, whatever it is.

    Args:
        objectives: Names and scales.
        backbone: Name of the backbone; a path on this machine is not shown.
        debiasing: The debiasing report; its penalties are shown.
        training: The training record; its metrics and data sources are shown.
        license_id: Licence identifier of the hub; ``None`` shows that it is not stated.
        steering: Steering that the folder was saved with.
    """
    from huggingface_hub import ModelCard

    metrics, licences = training.get("metrics", {}), recorded_licences(training)
    penalties = debiasing.get("penalties", {})
    base_model = backbone if HUB_ID.fullmatch(backbone) and not Path(backbone).exists() else None
    card = ModelCard.from_template(
        _card_data(training, base_model, license_id),
        template_path=str(TEMPLATE),
        name=_name(base_model),
        objectives=[
            {
                **objective.model_dump(),
                "name": plain(objective.name),
                "dataset": plain(objective.dataset or "–"),
                "penalty": penalties.get(objective.name),
            }
            for objective in objectives
        ],
        debiased_objective=plain(str(debiasing.get("objective") or "verbosity")),
        steering=None if steering is None else plain(json.dumps(steering, ensure_ascii=False)),
        held_out=metrics.get("pairs", {}).get("held_out"),
        methods=[_method(name, one) for name, one in metrics.get("methods", {}).items()],
        sources=_sources(training),
        licences={plain(name): plain(found) for name, found in licences.items()},
        non_commercial=[plain(name) for name in non_commercial(licences)],
        license_id=None if license_id is None else plain(license_id),
        backbone=base_model,
    )
    return str(card)


def recorded_licences(training: Mapping[str, Any]) -> dict[str, str]:
    """Return the licence of each source that a model was trained on, as far as it is recorded."""
    kinds = training.get(LICENCES, {})
    return combined(kinds.get("rated", {}), kinds.get("preferences", {}))


def _card_data(training: Mapping[str, Any], base_model: str | None, license_id: str | None) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    accuracy = training.get("metrics", {}).get("accuracy", {}).get("gate")
    results = None
    if accuracy is not None:
        results = [
            EvalResult(
                task_type="text-classification",
                task_name="Preference prediction",
                dataset_type="held-out",
                dataset_name="held-out preference pairs of the training sources",
                metric_type="accuracy",
                metric_value=round(accuracy, 4),
            )
        ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["reward-model", "armorm", "custom_code", PAPER, *_licence_tags(training)],
        license=license_id,
        base_model=base_model,
        datasets=_hub_datasets(training) or None,
        model_name=_name(base_model) if results else None,
        eval_results=results,
    )


def _licence_tags(training: Mapping[str, Any]) -> list[str]:
    return ["non-commercial"] if non_commercial(recorded_licences(training)) else []


def _name(base_model: str | None) -> str:
    return "ArmoRM" if base_model is None else f"ArmoRM on {base_model.split('/')[-1]}"


def _data_sections(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = training.get("recipe", {}).get("data", {})
    return [*data.get("rated", ()), *data.get("preferences", ())]


def _hub_datasets(training: Mapping[str, Any]) -> list[str]:
    sections = _data_sections(training)
    named = {section["dataset"] for section in sections if section.get("dataset")}
    entries = [_entry(section["catalog"]) for section in sections if section.get("catalog")]
    named |= {entry.hub_id for entry in entries if entry is not None}
    return sorted(filter(HUB_ID.fullmatch, named))


def _entry(name: str) -> CatalogEntry | None:
    """Return a dataset of the catalogue; None if it was registered in another program only."""
    try:
        return catalog_entry(name)
    except RecipeError:
        return None


def _sources(training: Mapping[str, Any]) -> list[str]:
    """Return each source once: hub names in full, of a file only its name."""
    names = []
    for section in _data_sections(training):
        if section.get("dataset"):
            names.append(_code(section["dataset"]))
        elif section.get("catalog"):
            entry = _entry(section["catalog"])
            if entry is None:
                names.append(plain(section["catalog"]))
                continue
            name = entry.hub_id if HUB_ID.fullmatch(entry.hub_id) else entry.name
            names.append(f"{plain(name)} ({plain(entry.licence)}): {plain(entry.about)}")
        elif section.get("path"):
            names.append(f"the file {_code(Path(section['path']).name)}")
    return sorted(set(names))


def _method(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    p = found.get("mcnemar_p")
    return {
        "name": plain(name.replace("_", " ")),
        **{part: _share(found.get(part, {})) for part in ("all", "shorter_won", "longer_won")},
        "p": "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
    }


def _share(found: Mapping[str, Any]) -> str:
    """Return an accuracy with its interval, in per cent."""
    share, low, high = (found.get(key) for key in ("accuracy", "low", "high"))
    if share is None or low is None or high is None:
        return "–"
    return f"{100 * share:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def plain(text: str) -> str:
    """Return Markdown and HTML that show a text as it is, on one line and in one table cell.

    Example:
        >>> plain("<b>|*x*")
        '&lt;b&gt;&#124;&#42;x&#42;'
    """
    line = html.escape(" ".join(text.split()), quote=False)
    line = _MARKUP.sub(lambda match: f"&#{ord(match[0])};", line)
    return "".join(c if c.isprintable() else f"&#{ord(c)};" for c in line)


def _code(name: str) -> str:
    return f"`{name}`" if re.fullmatch(r"[\w./@+-]+", name) else plain(name)
