"""Licences of data sources: which of them a head or a model was trained under."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

AND = " and "
"""Joins the licences of a source whose rows come under several."""

_NON_COMMERCIAL = re.compile(r"\bNC\b|non-?commercial", re.IGNORECASE)


def combined(licences: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Return the licences of both by source; a source that differs has all of them.

    Example:
        >>> combined({"a": "MIT"}, {"a": "CC-BY-4.0", "b": "MIT"})
        {'a': 'CC-BY-4.0 and MIT', 'b': 'MIT'}
    """
    return {
        source: AND.join(
            sorted(
                {
                    licence
                    for one in (licences, others)
                    if source in one
                    for licence in one[source].split(AND)
                }
            )
        )
        for source in sorted({*licences, *others})
    }


def under(licences: Mapping[str, str], pattern: str) -> dict[str, str]:
    """Return the sources of which some rows are under a licence like ``CC-BY-NC*``.

    Example:
        >>> under({"a": "CC-BY-NC-4.0 and MIT", "b": "CC-BY-4.0"}, "cc-by-nc*")
        {'a': 'CC-BY-NC-4.0 and MIT'}
    """
    wanted = pattern.casefold()
    return {
        source: licence
        for source, licence in licences.items()
        if any(fnmatchcase(one.casefold(), wanted) for one in licence.split(AND))
    }


def non_commercial(licences: Mapping[str, str]) -> dict[str, str]:
    """Return the sources whose licence forbids commercial use.

    Example:
        >>> non_commercial({"a": "CC-BY-NC-4.0", "b": "CC-BY-4.0", "c": "not stated"})
        {'a': 'CC-BY-NC-4.0'}
    """
    return {name: found for name, found in licences.items() if _NON_COMMERCIAL.search(found)}
