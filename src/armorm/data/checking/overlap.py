"""Overlap of texts: the share of one that stands in another, and near-duplicates."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from armorm.data.seen import open_database
from armorm.errors import MissingExtraError

Hashes = npt.NDArray[np.uint64]

CONTAMINATION_WORDS = 8
"""Eight words in a row are seldom the same by chance."""

SIMILARITY_WORDS = 3
"""Prompts are short: with longer runs one changed word would hide a near-duplicate."""

PERMUTATIONS = 64
BANDS = 16
"""Sixteen bands of four: prompts of similarity 0.8 meet in a band 999 times in 1000."""

_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def shingles(text: str, size: int) -> Hashes:
    """Return hashes of all runs of ``size`` words, each once, sorted.  Shape (runs,).

    Case and punctuation do not count.  A text of fewer words is one run.
    """
    words = _WORD.findall(text.lower())
    hashed = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], np.uint64)
    if not len(hashed):
        return hashed
    size = min(size, len(hashed))
    runs = len(hashed) - size + 1
    total = np.full(runs, size, np.uint64)
    for position in range(size):
        total = (total ^ hashed[position : position + runs]) * _MULTIPLIER
        total ^= total >> np.uint64(29)
    return np.unique(total)


class Overlap(NamedTuple):
    """A known text, and the share of its runs of words that another text holds."""

    text: int
    share: float


class KnownTexts:
    """Index of texts that other texts are compared with.

    It is two flat arrays, 12 bytes a run of words.
    """

    def __init__(self, texts: list[str], size: int = CONTAMINATION_WORDS) -> None:
        self._size = size
        runs = [shingles(text, size) for text in texts]
        self._lengths = np.array([len(hashes) for hashes in runs], np.int64)
        owners = np.repeat(np.arange(len(runs), dtype=np.uint32), self._lengths)
        hashes = np.concatenate(runs) if runs else np.zeros(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]

    def overlaps(self, text: str, least: float) -> list[Overlap]:
        """Return known texts of which at least this share is in the text, the largest first."""
        runs = shingles(text, self._size)
        first = np.searchsorted(self._hashes, runs, "left")
        last = np.searchsorted(self._hashes, runs, "right")
        found = np.flatnonzero(last > first)
        if not len(found):
            return []
        owners = np.concatenate([self._owners[first[i] : last[i]] for i in found])
        texts, counts = np.unique(owners, return_counts=True)
        shares = counts / self._lengths[texts]
        overlaps = [
            Overlap(int(text), float(share))
            for text, share in zip(texts, shares, strict=True)
            if share >= least
        ]
        return sorted(overlaps, key=lambda overlap: (-overlap.share, overlap.text))


class Near(NamedTuple):
    """An earlier prompt that is the same, or nearly so."""

    place: str
    split: str
    similarity: float
    same: bool = False


class Prompts:
    """All prompts so far, on disk, compared with each new one.

    Args:
        file: The database.
        similarity: Jaccard similarity of word runs from which two prompts are nearly the same.
    """

    def __init__(self, file: Path, similarity: float) -> None:
        try:
            from datasketch import MinHash
        except ImportError as error:
            raise MissingExtraError("Looking for near-duplicates", "check") from error
        self._similarity = similarity
        self._blank = MinHash(num_perm=PERMUTATIONS, hashfunc=_unchanged)
        self._database = open_database(file)
        self._database.execute(
            "CREATE TABLE prompts (number INTEGER PRIMARY KEY, key TEXT UNIQUE, place TEXT, "
            "split TEXT, signature BLOB)"
        )
        self._database.execute("CREATE TABLE bands (band INTEGER, number INTEGER)")
        self._database.execute("CREATE INDEX by_band ON bands (band)")

    def add(self, key: str, text: str, place: str, split: str) -> Near | None:
        """Remember a prompt; return the most similar earlier one, if any is similar enough.

        Args:
            key: Hash of the prompt as it is.
            text: Its words.
            place: Its name in reports.
            split: Its side of the split.
        """
        same = self._database.execute(
            "SELECT place, split FROM prompts WHERE key = ?", (key,)
        ).fetchone()
        if same is not None:
            return Near(same[0], same[1], 1.0, same=True)
        signature = self._signature(text)
        nearest = self._nearest(signature)
        self._remember(key, place, split, signature)
        return nearest

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _signature(self, text: str) -> npt.NDArray[np.uint32]:
        runs = shingles(text, SIMILARITY_WORDS) & np.uint64(0xFFFFFFFF)
        sketch = self._blank.copy()
        sketch.update_batch(runs.tolist())
        signature: npt.NDArray[np.uint32] = sketch.hashvalues.astype(np.uint32)
        return signature

    def _nearest(self, signature: npt.NDArray[np.uint32]) -> Near | None:
        bands = _bands(signature)
        marks = ",".join("?" * len(bands))
        candidates = self._database.execute(
            f"SELECT DISTINCT place, split, signature FROM bands JOIN prompts USING (number) "
            f"WHERE band IN ({marks})",
            bands,
        )
        near = [
            Near(place, split, float(np.mean(np.frombuffer(other, np.uint32) == signature)))
            for place, split, other in candidates
        ]
        best = max(near, key=lambda found: found.similarity, default=None)
        return best if best is not None and best.similarity >= self._similarity else None

    def _remember(
        self, key: str, place: str, split: str, signature: npt.NDArray[np.uint32]
    ) -> None:
        number = self._database.execute(
            "INSERT INTO prompts (key, place, split, signature) VALUES (?, ?, ?, ?)",
            (key, place, split, signature.tobytes()),
        ).lastrowid
        self._database.executemany(
            "INSERT INTO bands VALUES (?, ?)", [(band, number) for band in _bands(signature)]
        )


def _unchanged(value: int) -> int:
    """Return the value: runs of words are hashed already."""
    return value


def _bands(signature: npt.NDArray[np.uint32]) -> list[int]:
    """Return one number for each band; the band's position is part of it."""
    rows = signature.reshape(BANDS, -1)
    return [(position << 32) | zlib.crc32(rows[position].tobytes()) for position in range(BANDS)]
