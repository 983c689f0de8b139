"""Files that a server is started with: the key of its clients, and steering profiles."""

from __future__ import annotations

import os
from pathlib import Path

from armorm.errors import RecipeError
from armorm.model.profiles import SteeringProfile, read_profiles

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


def read_profile_folder(folder: Path | None) -> dict[str, SteeringProfile]:
    """Return the steering profiles of a folder by name; see :func:`read_profiles`.

    Raises:
        RecipeError: There is no such folder, or a file of it is no profile.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RecipeError(f"profiles {folder}: no such folder.")
    return read_profiles(folder)


def _read(file: Path, place: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{place}: cannot be read: {error}") from error
