"""Options of an audit."""

from __future__ import annotations

from pydantic import Field

from armorm.settings import Options


class AuditOptions(Options):
    """Size of an audit.

    Example:
        >>> AuditOptions(changed_rows=100).changed_rows
        100
    """

    rows: int = Field(default=2000, ge=1)
    """Pairs that are audited at most, chosen by the hash of their prompt."""
    changed_rows: int = Field(default=200, ge=0)
    """Pairs that are scored again under each change; 0 leaves counterfactuals out."""
    probed_rows: int = Field(default=500, ge=0)
    """Pairs whose features are read for linear probes and novelty; 0 leaves both out."""
    changes: tuple[str, ...] = ()
    """Names of the changes; by default all of them."""
    seed: int = 0
    """Seed of the choice of pairs, of the changes and of the resampling."""
