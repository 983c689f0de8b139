"""Account of the rows that a training run read, as in ``data.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from armorm.errors import ArmormError, StoreError
from armorm.files import read_json


class RowAccount(BaseModel):
    """Account of one kind of rows.

    Attributes:
        read: Rows that came in.
        kept: Valid rows.
        skipped: Rows that are not valid, by reason.
        notes: Values that were repaired on the way, by rule.
        too_long: Valid rows without features: longer than the backbone reads.
        refused_by_template: Valid rows without features: the chat template refuses them.
        prompts: Different prompts with features.
        sha256: Fingerprint of the valid rows.
        extraction: Work of the last run of the extraction.
        licences: Licence of the rows of each source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    read: int
    kept: int
    skipped: dict[str, int]
    notes: dict[str, int] = {}
    too_long: int
    refused_by_template: int
    prompts: int
    sha256: str
    extraction: dict[str, int | float]
    licences: dict[str, str] = {}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them; no notes where nothing was repaired."""
        return self.model_dump(mode="json", exclude_defaults=True)


class DataAccount(BaseModel):
    """Account of both kinds of rows.

    Attributes:
        rated: Rated responses.
        preferences: Preference pairs.
        seconds: Duration of reading and extraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rated: RowAccount
    preferences: RowAccount
    seconds: float

    @classmethod
    def load(cls, file: Path) -> DataAccount:
        """Return the account that a file holds.

        Raises:
            StoreError: The file is missing or damaged.
        """
        try:
            return cls.model_validate(read_json(file))
        except (ArmormError, OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise StoreError(
                f"{file} is missing or damaged ({reason}). Run `armorm features` first."
            ) from error

    def by_kind(self) -> dict[str, RowAccount]:
        """Return the account of each kind under its name for people."""
        return {"rated": self.rated, "preferences": self.preferences}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them; no notes where nothing was repaired."""
        return self.model_dump(mode="json", exclude_defaults=True)
