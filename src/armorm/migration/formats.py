"""Every format on disk that has a version, and the steps from each older version to the next.

A new version of a format is a new :class:`Step` here, in the commit that raises the version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armorm.errors import ArmormError
from armorm.features.store_format import FORMAT_VERSION as STORE_VERSION
from armorm.features.store_format import MANIFEST
from armorm.files import read_json
from armorm.heads.uncertainty import FORMAT_VERSION as UNCERTAINTY_VERSION
from armorm.hub import METADATA_FILE, UNCERTAINTY_FILE
from armorm.migration.steps import model_of_format_1, uncertainty_of_format_1, uncertainty_version
from armorm.model.layout import FORMAT_VERSION as MODEL_VERSION


@dataclass(frozen=True, slots=True)
class Step:
    """A step from one version of a format to the next.

    Attributes:
        convert: Takes a file of the format in a copy of its folder, and replaces it; ``None``
            where the older version lacks what the next one holds.
        meaning: One sentence: what is kept, or why it cannot be converted and what to do.
    """

    convert: Callable[[Path], None] | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Format:
    """A format on disk.

    Attributes:
        name: Its name for people.
        current: Version that this program reads and writes.
        recognise: Tells whether a file, which carries the version, is of the format.
        read: Returns the version and the program that wrote the file, ``unknown`` if it does not
            say.
        steps: Step from each older version, by that version.
    """

    name: str
    current: int
    recognise: Callable[[Path], bool]
    read: Callable[[Path], tuple[Any, str]]
    steps: dict[int, Step]


def _is_manifest(file: Path) -> bool:
    if file.name != MANIFEST:
        return False
    try:
        return {"kind", "shards", "shard_responses"} <= read_json(file).keys()
    except ArmormError:
        return False


def _is_uncertainty(file: Path) -> bool:
    return file.parts[-2:] in (Path(UNCERTAINTY_FILE).parts, ("head", "uncertainty.safetensors"))


def _read_json_version(file: Path) -> tuple[Any, str]:
    content = read_json(file)
    return content.get("format_version"), str(content.get("written_by") or "unknown")


_EXTRACT_AGAIN = (
    "its rows are known by another hash, which takes their text to compute. Extract the features "
    "again: armorm features RECIPE -o RUN."
)

# What a model folder holds besides is converted before the model is loaded.
FORMATS = (
    Format(
        "uncertainty of a head",
        UNCERTAINTY_VERSION,
        _is_uncertainty,
        lambda file: (uncertainty_version(file), "unknown"),
        {
            1: Step(
                uncertainty_of_format_1,
                "score deviations are those that the older version computed, and there are no "
                "conformal intervals; armorm fit-head and fit-gate give both anew.",
            )
        },
    ),
    Format(
        "feature store",
        STORE_VERSION,
        _is_manifest,
        _read_json_version,
        {1: Step(None, _EXTRACT_AGAIN), 2: Step(None, _EXTRACT_AGAIN)},
    ),
    Format(
        "model folder",
        MODEL_VERSION,
        lambda file: file.name == METADATA_FILE,
        _read_json_version,
        {
            1: Step(
                model_of_format_1,
                "weights, objectives and records are kept; the self-check was compared and made "
                "anew.",
            )
        },
    ),
)
"""In the order in which a folder's parts are converted."""
