"""Write the JSON Schemas of recipes and of armorm.json, for editors and other programs.

Run it after a change of an option or of the model folder: python scripts/build_schemas.py
"""

from __future__ import annotations

import json
from pathlib import Path

from armorm.cli.formats import SCHEMAS

ROOT = Path(__file__).parents[1]
FILES = {
    "recipe": ROOT / "recipes" / "recipe.schema.json",  # where an editor finds it by its name
    "model": ROOT / "docs" / "schemas" / "armorm.schema.json",
}


def text(name: str) -> str:
    """Return the file of a schema."""
    return json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    for name, file in FILES.items():
        file.write_text(text(name), encoding="utf-8")
