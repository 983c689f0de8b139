"""Lists of rows on disk, so that their number is not bounded by memory."""

from __future__ import annotations

import json
import operator
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Generic, NoReturn, TypeVar, overload

from armorm.errors import ArmormError
from armorm.files import json_line

Item = TypeVar("Item")

Record = dict[str, Any]


class DiskList(Sequence[Item], Generic[Item]):
    """List whose items are kept as JSON lines in a file, with 8 bytes of each in memory.

    The file has no name and goes when the list does, whatever ends the process (on Windows and
    network disks it has one while it is open).  So a list on disk is of one process: it cannot be
    pickled; ``list(rows)`` can.

    Args:
        to_record: Converts an item to JSON.
        from_record: Converts it back.
        folder: Folder of the file; default the system's temporary folder.
    """

    def __init__(
        self,
        to_record: Callable[[Item], Record],
        from_record: Callable[[Record], Item],
        folder: Path | None = None,
    ) -> None:
        self._to_record = to_record
        self._from_record = from_record
        self._lines = _Lines(folder)
        self._numbers: Sequence[int] = range(0)

    def append(self, item: Item) -> None:
        """Add an item.

        Raises:
            ArmormError: The disk is full or cannot be written.
        """
        if not isinstance(self._numbers, range):
            raise TypeError("A selection of a list on disk cannot grow.")
        self._lines.append(json_line(self._to_record(item)))
        self._numbers = range(len(self._lines))

    def extend(self, items: Iterable[Item]) -> None:
        """Add items; see :meth:`append`."""
        for item in items:
            self.append(item)

    def select(self, positions: Iterable[int]) -> DiskList[Item]:
        """Return the items at these positions, without copying them."""
        chosen: DiskList[Item] = DiskList.__new__(DiskList)
        chosen._to_record, chosen._from_record = self._to_record, self._from_record
        chosen._lines = self._lines
        chosen._numbers = array("q", (self._numbers[position] for position in positions))
        return chosen

    @overload
    def __getitem__(self, position: int) -> Item: ...
    @overload
    def __getitem__(self, position: slice) -> DiskList[Item]: ...
    def __getitem__(self, position: int | slice) -> Item | DiskList[Item]:
        if isinstance(position, slice):
            return self.select(range(len(self))[position])
        return self._from_record(json.loads(self._lines[self._numbers[position]]))

    def __len__(self) -> int:
        return len(self._numbers)

    def __eq__(self, other: object) -> bool:
        """Return whether the other is a list of equal items, on disk or not."""
        if not isinstance(other, (DiskList, list)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __reduce__(self) -> NoReturn:
        raise TypeError("Rows on disk are of one process and cannot be pickled: take list(rows).")

    def __repr__(self) -> str:
        return f"<{len(self)} items on disk>"


class _Lines:
    """Lines of bytes in a file without a name; threads may read them, other processes may not."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = Path(folder or tempfile.gettempdir())
        self._file: IO[bytes] | None = None
        self._ends = array("q", [0])
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        with self._file_at(self._ends[-1]) as file:
            file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        with self._file_at(start) as file:
            return file.read(end - start)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @contextmanager
    def _file_at(self, place: int) -> Iterator[IO[bytes]]:
        """Lock the file and move to a place in it.

        Reading, too, may first write what was appended, and raise its errors.
        """
        try:
            with self._lock:
                if self._file is None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._file.seek(place)
                yield self._file
        except OSError as error:
            raise ArmormError(
                f"The rows that were read cannot be kept in {self._folder} ({error.strerror}). "
                "They take as much disk as their text: free some, or use another folder."
            ) from error
