"""Output that is made in parts by several processes, and joined when all are there.

Beside ``OUT`` stands, until it is whole, the folder ``OUT.parts``::

    manifest.json         model, input and how it is cut
    part-00012.jsonl      output rows of one range of input rows
    part-00012.invalid    its bad rows, as JSON lines
    part-00012.json       its counts and sizes, written last: with it, the part counts as done
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from armorm.errors import ArmormError
from armorm.files import open_atomically, read_json, write_json


@dataclass(slots=True)
class PartRecord:
    """What a part holds."""

    rows: int = 0
    scored: int = 0
    skipped: int = 0
    output_bytes: int = 0
    invalid_bytes: int = 0


class PartsFolder:
    """The unfinished output of several processes.

    Args:
        output: The file it is to become.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.invalid = output.with_name(f"{output.name}.invalid")
        self.path = output.with_name(f"{output.name}.parts")

    def start(self, manifest: dict[str, Any]) -> None:
        """Begin, or take up parts that were made with the same manifest.

        Raises:
            ArmormError: the parts belong to something else.
        """
        if not self._manifest.exists():
            write_json(self._manifest, manifest)
        elif read_json(self._manifest) != manifest:
            raise ArmormError(
                f"{self.path} holds the unfinished output of another model or input. Delete the "
                "folder to start again."
            )

    def join_in(self, manifest: dict[str, Any]) -> None:
        """Make sure that this process sees the folder that another one started.

        Raises:
            ArmormError: it does not.
        """
        if not self._manifest.exists() or read_json(self._manifest) != manifest:
            raise ArmormError(
                f"A worker does not see {self.path} as it was started. All workers need the "
                "output folder under the same name, on a shared disk."
            )

    def record(self, number: int) -> PartRecord | None:
        """What a part holds; ``None`` if it is not there whole."""
        try:
            record = PartRecord(**read_json(self._file(number, "json")))
        except (OSError, ValueError, TypeError):
            return None
        sizes = (record.output_bytes, record.invalid_bytes)
        return record if sizes == tuple(map(_size, self._contents(number))) else None

    @contextmanager
    def write(self, number: int) -> Iterator[tuple[IO[bytes], IO[bytes], PartRecord]]:
        """Files for output rows and bad rows, and the record whose counts the caller fills."""
        output, invalid = self._contents(number)
        record = PartRecord()
        with open_atomically(output) as scored, open_atomically(invalid) as bad:
            yield scored, bad, record
            record.output_bytes, record.invalid_bytes = scored.tell(), bad.tell()
        write_json(self._file(number, "json"), asdict(record))

    def finish(self, parts: int, keep_invalid: bool) -> None:
        """Join all parts in their order, and remove them."""
        contents = [self._contents(number) for number in range(parts)]
        if keep_invalid:
            _join((bad for _, bad in contents), self.invalid)
        else:
            self.invalid.unlink(missing_ok=True)
        _join((scored for scored, _ in contents), self.output)
        shutil.rmtree(self.path)

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.json"

    def _contents(self, number: int) -> tuple[Path, Path]:
        return self._file(number, "jsonl"), self._file(number, "invalid")

    def _file(self, number: int, ending: str) -> Path:
        return self.path / f"part-{number:05d}.{ending}"


def _join(files: Iterable[Path], whole: Path) -> None:
    with open_atomically(whole) as target:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, target, 1 << 20)


def _size(file: Path) -> int:
    return file.stat().st_size
