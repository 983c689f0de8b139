"""Files that a server is started with: the key of its clients, and steering profiles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from armorm.errors import RecipeError
from armorm.model import Steering

KEY_VARIABLE = "ARMORM_API_KEY"
"""Environment variable that holds the key of clients."""


def read_key(file: Path | None) -> str | None:
    """Return the key of clients: the first line of a file, or else the environment's.

    Raises:
        RecipeError: The file cannot be read, or the key is no printable ASCII without spaces.
    """
    if file is None:
        key, place = os.environ.get(KEY_VARIABLE), KEY_VARIABLE
        if key is None:
            return None
    else:
        place = f"api_key_file {file}"
        key = _read(file, place).partition("\n")[0].strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise RecipeError(f"{place}: a key is printable ASCII without spaces.")
    return key


def read_profiles(folder: Path | None) -> dict[str, Steering]:
    """Return the steering profiles of a folder by name: NAME.yaml, NAME.yml or NAME.json.

    Raises:
        RecipeError: There is no such folder, a file cannot be read or is no steering, or two files
            have one name.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RecipeError(f"profiles {folder}: no such folder.")
    profiles: dict[str, Steering] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".yaml", ".yml", ".json"):
            continue
        if file.stem in profiles:
            raise RecipeError(f"{file}: there are two profiles of this name.")
        profiles[file.stem] = _profile(file)
    return profiles


def _profile(file: Path) -> Steering:
    try:
        knobs: Any = yaml.safe_load(_read(file, str(file)))  # JSON is YAML
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{file}: not YAML: {error}") from error
    try:
        return Steering.from_dict(knobs)
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from None


def _read(file: Path, place: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{place}: cannot be read: {error}") from error
