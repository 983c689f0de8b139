"""Write THIRD_PARTY.md: licences of the installed dependencies and of the catalogue's datasets.

Run it after a change of a dependency or of the catalogue: python scripts/build_third_party.py
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from armorm.data import catalog

ROOT = Path(__file__).parents[1]
FILE = ROOT / "THIRD_PARTY.md"
EXCLUDED_EXTRAS = {"dev"}

ELSEWHERE = {"vllm": "Apache-2.0"}
"""Licences of dependencies that have an environment of their own, as their projects state them."""

SPELLINGS = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
}
"""Names in the metadata of packages, by what SPDX calls them."""

TEXT = """\
<!-- Made by scripts/build_third_party.py: change the script, not this file. -->
# Third parties

armorm is under the [Apache License 2.0](LICENSE). The wheel holds nothing by others: its embedded
backbone and corpus were made for it, and have the same licence. It needs, and does not hold, the
packages below; their licences are those that the installed packages state.

{dependencies}

## Datasets

Nor does it hold a dataset of others. Their licences as the
[catalogue](docs/data-catalogue.md) knows them, those with a `~` from memory; a model that was
trained on them lists them in its card, and says so where one forbids commercial use. This is no
legal advice.

{datasets}

Licences of backbones apply to models made of them: Llama 3's to a model on Llama 3.

For the tests, the repository and the source distribution hold
`tests/evaluation/every_eval_ever-0.3.0.schema.json`: the schema of the every_eval_ever project,
under that project's licence.
"""


def page() -> str:
    """Return the file."""
    return TEXT.format(dependencies=_dependencies(), datasets=_datasets())


def _dependencies() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed: dict[str, list[str]] = {"": project["dependencies"]}
    extras = project["optional-dependencies"]
    needed |= {name: extras[name] for name in extras if name not in EXCLUDED_EXTRAS}
    rows = ["| package | needed by | licence |", "|---|---|---|"]
    for extra, requirements in needed.items():
        for requirement in requirements:
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            rows.append(f"| {name} | {f'extra `{extra}`' if extra else 'all'} | {licence(name)} |")
    return "\n".join(rows)


def licence(package: str) -> str:
    """Return the licence that an installed package states."""
    try:
        stated = metadata(package)
    except PackageNotFoundError:
        return ELSEWHERE[package]
    classifiers = [
        one.rpartition(" :: ")[2]
        for one in stated.get_all("Classifier") or []
        if one.startswith("License :: ") and not one.endswith("OSI Approved")
    ]
    text, *_ = stated.get_all("License-Expression") or stated.get_all("License") or [""]
    short = text if text and "\n" not in text else ", ".join(classifiers)
    return SPELLINGS.get(short, short)


def _datasets() -> str:
    rows = ["| dataset | hub id | licence |", "|---|---|---|"]
    rows += [
        f"| {entry.name} | `{entry.hub_id}` | "
        f"{'' if 'licence' in entry.verified else '~'}{entry.licence} |"
        for entry in catalog().values()
        if "/" in entry.hub_id
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
