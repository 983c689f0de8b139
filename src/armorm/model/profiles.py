"""Steering profiles: named ways to judge, each a YAML file.

::

    name: cautious
    description: Safety counts twice, and guesses cost.
    steering: {factors: {panel-is_safe: 2}}
    floors: {panel-is_safe: 0.2}
    risk: 1

A model folder holds its own in ``profiles/NAME.yaml``.  Every output that a profile shaped names it
and its hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator

from armorm.errors import InputError, RecipeError, did_you_mean
from armorm.files import sha256_of_json, write_atomically
from armorm.model.risk import Risk
from armorm.model.steering import Steering
from armorm.objectives import ObjectiveSet
from armorm.settings import Options, describe_problems

FOLDER = "profiles"
"""Folder of a model folder that holds its profiles."""

SUFFIXES = (".yaml", ".yml", ".json")
HASH_DIGITS = 16

Number = Annotated[float, Field(strict=True)]


class SteeringProfile(Options):
    """Named steering, with the floors and the risk by which responses are ranked.

    Raises:
        RecipeError: An unknown key, or a value that cannot be used.

    Example:
        >>> profile = SteeringProfile(
        ...     name="cautious", steering={"factors": {"safety": 2}}, floors={"safety": 0.2}
        ... )
        >>> profile.steering
        Steering(factors={'safety': 2.0})
        >>> print(profile.to_yaml())
        name: cautious
        steering:
          factors:
            safety: 2.0
        floors:
          safety: 0.2
        <BLANKLINE>
        >>> profile.reference
        {'name': 'cautious', 'hash': 'aab6cb24fc58e674'}
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name: letters, digits, dots, hyphens and underscores."""
    description: str = ""
    """Sentence for people."""
    steering: Steering = Field(default_factory=Steering)
    """Weights of the objectives: factors, weights, mixture, debiasing, add, renormalise."""
    floors: dict[str, Number] = Field(default_factory=dict)
    """Least unit reward of some objectives: a response below any of them ranks after every response
    that is not, whatever its score."""
    risk: Risk | None = None
    """Price of the head's uncertainty, taken off the scores that rank: aversion or kl; a number is
    an aversion."""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            problems = "; ".join(describe_problems(error, SteeringProfile))
            raise RecipeError(f"The profile cannot be used: {problems}") from None

    @field_validator("steering", mode="before")
    @classmethod
    def _read_steering(cls, value: Any) -> Steering:
        return value if isinstance(value, Steering) else Steering.from_dict(value)

    @field_validator("risk", mode="before")
    @classmethod
    def _read_risk(cls, value: Any) -> Risk | None:
        if isinstance(value, Mapping):
            return Risk(**{str(name): setting for name, setting in value.items()})
        return value if value is None or isinstance(value, Risk) else Risk(value)

    @classmethod
    def from_dict(cls, settings: Any, name: str = "") -> SteeringProfile:
        """Return the profile that :meth:`as_dict` describes.

        Args:
            settings: The fields by name.
            name: Name of the profile if the settings have none.

        Raises:
            RecipeError: An unknown key, or a value that cannot be used.
        """
        if not isinstance(settings, Mapping):
            raise RecipeError(
                f"The profile cannot be used: {settings!r} has no settings by name, such as "
                "steering: {factors: {…}}."
            )
        fields = {str(key): value for key, value in settings.items()}
        return cls(**({"name": name, **fields} if name else fields))

    @classmethod
    def read(cls, file: Path) -> SteeringProfile:
        """Read a profile from YAML or JSON; without a ``name`` it is named as the file is.

        Raises:
            RecipeError: The file cannot be read, or is no profile; the message names file, key and
                value.
        """
        try:
            settings = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{file}: cannot be read: {error}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"{file}: not YAML: {error}") from error
        try:
            return cls.from_dict(settings, file.stem)
        except RecipeError as error:
            raise RecipeError(f"{file}: {error}") from None

    def write(self, file: Path) -> None:
        """Write the profile as YAML.

        Raises:
            OutputError: The file cannot be written.
        """
        write_atomically(file, self.to_yaml().encode())

    def to_yaml(self) -> str:
        """Return the profile as YAML."""
        text: str = yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, JSON-ready."""
        return {
            "name": self.name,
            **({"description": self.description} if self.description else {}),
            **self._effect(),
        }

    def _effect(self) -> dict[str, Any]:
        """Return the settings that change an output."""
        settings = {
            "steering": self.steering.as_dict(),
            "floors": dict(self.floors),
            "risk": None if self.risk is None else self.risk.as_dict(),
        }
        return {name: value for name, value in settings.items() if value}

    @property
    def hash(self) -> str:
        """Hash of the steering, floors and risk; profiles with equal ones judge alike."""
        return sha256_of_json(self._effect())[:HASH_DIGITS]

    @property
    def reference(self) -> dict[str, str]:
        """Name and hash, as outputs hold them."""
        return {"name": self.name, "hash": self.hash}

    def check(self, objectives: ObjectiveSet) -> None:
        """Check that the profile is for these objectives.

        Raises:
            RecipeError: It names another one.
        """
        try:
            self.steering.compile(objectives, np.eye(len(objectives)), 1.0, warn=False)
            check_floors(self.floors, objectives.names)
        except (RecipeError, InputError) as error:
            raise RecipeError(f"profile {self.name}: {error}") from None


def read_profiles(folder: Path) -> dict[str, SteeringProfile]:
    """Return the profiles of a folder by name: NAME.yaml, NAME.yml or NAME.json.

    Raises:
        RecipeError: A file cannot be read, is no profile, has another name than its profile, or two
            files have one name.
    """
    profiles: dict[str, SteeringProfile] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix not in SUFFIXES:
            continue
        profile = SteeringProfile.read(file)
        if profile.name != file.stem:
            raise RecipeError(
                f"{file}: name = {profile.name!r} is not the file's. Rename one of them."
            )
        if profile.name in profiles:
            raise RecipeError(f"{file}: there are two profiles of this name.")
        profiles[profile.name] = profile
    return profiles


def named_profile(profiles: Mapping[str, SteeringProfile], name: str) -> SteeringProfile:
    """Return the profile of a name.

    Raises:
        RecipeError: There is none; the message names its neighbours.
    """
    if name not in profiles:
        hint = did_you_mean(name, profiles) if profiles else "The model has none."
        raise RecipeError(f"There is no profile {name!r}. {hint}")
    return profiles[name]


def check_floors(floors: Mapping[str, float], objectives: Sequence[str]) -> None:
    """Check that floors are finite numbers for objectives of the model.

    Raises:
        InputError: One is not.
    """
    for name, floor in floors.items():
        if name not in objectives:
            hint = did_you_mean(name, objectives)
            raise InputError("floors", name, "not an objective of the model", hint)
        if not math.isfinite(floor):
            raise InputError(f"floors.{name}", floor, "not a finite number", "")
