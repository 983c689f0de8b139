"""Rows that were there before, remembered on disk rather than in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from armorm.conversations import PreferencePair, RatedResponse
from armorm.conversations.messages import row_key
from armorm.errors import ArmormError

DUPLICATE = "the same row again"


@contextmanager
def database_errors(file: Path) -> Iterator[None]:
    """Turn an error of SQLite into one that names the file and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise ArmormError(
            f"{file} cannot be used: {error}. Free some space, or delete the file and give the "
            "same command again."
        ) from error


def open_database(file: Path) -> sqlite3.Connection:
    """Open a database that is written again if it is lost."""
    database = sqlite3.connect(file)
    database.execute("PRAGMA cache_size = -65536")  # in KiB
    database.execute("PRAGMA synchronous = OFF")
    return database


class SeenRows:
    """Rows by 8 bytes of their key.

    Two of ten million different rows share them with a probability of 3 in a million.

    Args:
        file: The database; created where it does not exist.
        finished: Numbers of jobs.  Rows of other jobs are forgotten: those jobs were interrupted,
            and will add them again.

    Raises:
        ArmormError: The file is damaged or cannot be written; so do all methods.
    """

    def __init__(self, file: Path, finished: Iterable[int] = ()) -> None:
        self._file = file
        finished_jobs = ",".join(str(number) for number in sorted(finished))
        with database_errors(file):
            self._database = open_database(file)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS seen (hash INTEGER PRIMARY KEY, job)"
            )
            self._database.execute(f"DELETE FROM seen WHERE job NOT IN ({finished_jobs})")
            self._cursor = self._database.cursor()

    def add(self, row: RatedResponse | PreferencePair, job: int = 0) -> bool:
        """Remember a row; return whether it is new."""
        with database_errors(self._file):
            self._cursor.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (_hash(row), job))
        return self._cursor.rowcount == 1

    def has(self, row: RatedResponse | PreferencePair) -> bool:
        """Return whether a row of this content was added before."""
        with database_errors(self._file):
            self._cursor.execute("SELECT 1 FROM seen WHERE hash = ?", (_hash(row),))
        return self._cursor.fetchone() is not None

    def commit(self) -> None:
        """Save all rows that were added."""
        with database_errors(self._file):
            self._database.commit()

    def close(self) -> None:
        """Close the file; rows added since the last commit are forgotten."""
        self._database.close()


def _hash(row: RatedResponse | PreferencePair) -> int:
    return int.from_bytes(bytes.fromhex(row_key(row)[:16]), "big", signed=True)
