"""An output that is made in parts, and joined when all are there.

Beside ``OUT`` stands, until it is complete, the folder ``OUT.parts``::

    manifest.json         the work, the model, and hashes of the input: what the output depends on
    part-000012.jsonl     output rows of one part of the input
    part-000012.json      its counts, its bad rows, and the hash of the output rows; written last
"""

from __future__ import annotations

import glob
import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from armorm.errors import ArmormError, DamagedFileError, OutputError
from armorm.files import (
    check_output_file,
    json_line,
    open_atomically,
    read_json,
    refuse_same_file,
    write_atomically,
    write_json,
    writing,
)

_OWN_NAME = re.compile(r"manifest\.json|part-\d{6,}\.jsonl?|\..*\.tmp")


@dataclass(frozen=True, slots=True)
class PartRecord:
    """Counts of a part that is done.

    Attributes:
        rows: Input rows.
        written: Output rows.
        invalid: Bad rows, as :meth:`armorm.InputError.as_dict` gives them.
        sha256: Hash of the output rows.
    """

    rows: int
    written: int
    invalid: Sequence[Mapping[str, Any]]
    sha256: str

    def describes(self, content: bytes) -> bool:
        """Return true if the record, which may be damaged, is that of these output rows."""
        return (
            self.sha256 == hashlib.sha256(content).hexdigest()
            and self.written == content.count(b"\n")
            and isinstance(self.invalid, list | tuple)
            and all(isinstance(row, Mapping) for row in self.invalid)
            and self.rows == self.written + len(self.invalid)
        )


class PartsFolder:
    """The unfinished output of one or several processes.

    Args:
        output: The file that the parts become.

    Raises:
        OutputError: A folder or a device has its name.
    """

    def __init__(self, output: Path) -> None:
        check_output_file(output)  # the root and the current folder have no name to add to
        self.output = output
        self.invalid = output.with_name(f"{output.name}.invalid")
        self.path = output.with_name(f"{output.name}.parts")

    def start(self, manifest: Mapping[str, Any], sources: Iterable[Path]) -> None:
        """Begin, or continue with parts that were made with the same manifest.

        Raises:
            ArmormError: The parts belong to something else, or are damaged.
            OutputError: The output cannot be written, or is one of the sources, or the folder
                holds files that are no parts.
        """
        for name in (self.output, self.invalid):
            check_output_file(name)
            for source in sources:
                refuse_same_file(source, name)
        with writing(self.path):
            # A finished output whose parts were not all removed before the process was killed.
            shutil.rmtree(self._finished, ignore_errors=True)
            # Of a process that was killed while it joined the parts; this one holds the lock.
            for leftover in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.tmp"):
                leftover.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = self._foreign()
            if foreign is not None:
                raise OutputError(
                    f"{self.path} holds {foreign!r}, which is no part of an output, and would be "
                    "deleted. Choose another output, or move the folder."
                )
        begun = self._read_manifest()
        if begun is None:
            # Parts without a manifest may be of any input.
            for part in self.path.iterdir():
                part.unlink()
            write_json(self._manifest, manifest)
        elif begun != manifest:
            raise ArmormError(
                f"{self.path} holds the unfinished output of another model, input or command. "
                "Give the command that began it, or delete the folder to start again."
            )

    def join_in(self, manifest: Mapping[str, Any]) -> None:
        """Check that this process sees the folder that another one started.

        Raises:
            ArmormError: It does not.
        """
        if self._read_manifest() != manifest:
            raise ArmormError(
                f"A worker does not see {self.path} as it was started. All workers need the "
                "output folder under the same name, on a shared disk."
            )

    def record(self, number: int) -> PartRecord | None:
        """Return the counts of a part, or ``None`` if it is not there or is damaged."""
        try:
            record = PartRecord(**read_json(self._file(number, "json")))
            content = self._file(number, "jsonl").read_bytes()
        except (OSError, DamagedFileError, TypeError):
            return None
        return record if record.describes(content) else None

    def write(
        self, number: int, lines: Sequence[bytes], invalid: Sequence[Mapping[str, Any]]
    ) -> PartRecord:
        """Write one part: its output rows, then the record with which it counts as done.

        Raises:
            OutputError: The disk is full or cannot be written; parts that are done stay.
        """
        content = b"".join(lines)
        digest = hashlib.sha256(content).hexdigest()
        record = PartRecord(len(lines) + len(invalid), len(lines), invalid, digest)
        write_atomically(self._file(number, "jsonl"), content)
        write_json(self._file(number, "json"), asdict(record))
        return record

    def finish(self, records: Sequence[PartRecord]) -> None:
        """Join all parts in their order, and remove them.

        Raises:
            OutputError: The output cannot be written; the parts stay.
        """
        if any(record.invalid for record in records):
            with open_atomically(self.invalid) as listed:
                listed.writelines(json_line(row) for record in records for row in record.invalid)
        else:
            self.invalid.unlink(missing_ok=True)
        with open_atomically(self.output) as whole:
            for number in range(len(records)):
                with self._file(number, "jsonl").open("rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
        # Renamed first: a kill while the parts are removed must not leave half of them.
        self.path.rename(self._finished)
        shutil.rmtree(self._finished, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove a folder in which no part is done, so that a refused command leaves nothing."""
        if not any(self.path.glob("part-*.json")):
            self.remove()

    def remove(self) -> None:
        """Remove the folder, unless it holds files that are no parts."""
        with suppress(OSError):
            if self._foreign() is None:
                shutil.rmtree(self.path)

    def _foreign(self) -> str | None:
        """Return the name of a file that no run left here."""
        names = (entry.name for entry in self.path.iterdir())
        return next((name for name in names if not _OWN_NAME.fullmatch(name)), None)

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            return read_json(self._manifest)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            raise DamagedFileError(
                f"{error} Delete {self.path} to start again; nothing else is lost."
            ) from error

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def _finished(self) -> Path:
        return self.path.with_name(f".{self.path.name}.finished")

    def _file(self, number: int, ending: str) -> Path:
        return self.path / f"part-{number:06d}.{ending}"
