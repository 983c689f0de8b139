"""Files that are complete or absent, JSON, locks on outputs, and hashes of contents.

- One output file: :func:`open_atomically`, or :func:`write_atomically` and :func:`write_json`.
- A whole folder: :func:`replace_folder`.
- An output that is built in several steps: hold :func:`exclusive` while it is written.
- A file that is written in any other way: inside :func:`writing`, so that errors are clear.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from armorm.errors import ArmormError, DamagedFileError, InputError, OutputError, shorten

_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextmanager
def exclusive(path: Path, doing: str = "working") -> Iterator[None]:
    """Lock an output, a file or a folder, while the block runs.

    The lock is a file ``.<name>.lock`` beside the output.  The operating system releases it when
    the process ends, however it ends.  A block inside the block may lock the same output again.

    Example:
        >>> with exclusive(Path("run"), doing="training"):
        ...     train_all_stages()  # doctest: +SKIP

    Args:
        path: The output; it need not exist.
        doing: Shown to the process that is refused, such as ``scoring``.

    Raises:
        ArmormError: Another process, named by its number and machine, holds the lock.
        OutputError: The folder around the output cannot be written.
    """
    path = path.absolute()
    with writing(path):
        path = path.parent.resolve() / path.name  # the same for each spelling of the folder
    if path in _held.get():
        yield
        return
    with writing(path):
        file = _lock_file(path)
        lock = FileLock(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.2, poll_interval=0.05)
        except Timeout:
            if not file.exists():
                raise OSError(errno.EACCES, "No file can be made beside it", str(path)) from None
            raise ArmormError(
                f"{path} is in use by {_holder(file)}. Wait until it ends, or stop it, or choose "
                "another output."
            ) from None
    token = _held.set(_held.get() | {path})
    try:
        owner = {"process": os.getpid(), "machine": platform.node(), "doing": doing}
        with contextlib.suppress(OSError):  # the lock holds without it
            file.write_bytes(json_line(owner))
        yield
    finally:
        _held.reset(token)
        file.unlink(missing_ok=True)
        lock.release()


def _lock_file(path: Path) -> Path:
    """Return the lock's place: beside the output, or in a folder whose parent is not writable."""
    if path.is_dir() and (not path.name or not os.access(path.parent, os.W_OK)):
        return path / ".lock"
    return path.with_name(f".{path.name}.lock")


def _holder(file: Path) -> str:
    try:
        owner = json.loads(file.read_bytes())
        return f"process {owner['process']} on {owner['machine']} ({owner['doing']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an :class:`OSError` of the block into an :class:`OutputError` that names the file.

    An error that names a file outside ``path`` and its folder, such as an input that cannot be
    read, passes unchanged.

    Example:
        >>> with writing(Path("/proc/cmdline")):
        ...     Path("/proc/cmdline").mkdir()
        Traceback (most recent call last):
        armorm.errors.OutputError: /proc/cmdline cannot be written: File exists. ...
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.filename is not None and not _concerns(Path(os.fsdecode(error.filename)), path):
            raise
        raise _cannot_write(path, error.errno or 0, error.strerror or str(error)) from error
    except Exception as error:
        # safetensors and tokenizers are written in Rust and have errors of their own.
        found = re.search(r"([^:]*) \(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise _cannot_write(path, int(found[2]), found[1].strip()) from error


def _cannot_write(path: Path, number: int, reason: str) -> OutputError:
    remedy = _REMEDIES.get(number, "Choose another output.")
    return OutputError(f"{path} cannot be written: {reason}. {remedy}")


def _concerns(file: Path, output: Path) -> bool:
    file, output = file.absolute(), output.absolute()
    related = file in output.parents or output in file.parents
    return file == output or related or output.name in file.name


_FULL = "Free some space and give the same command again."
_FORBIDDEN = "Choose a folder where you may write."
_OCCUPIED = "Something else has this name, or the name of a folder above it; choose another."
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "Raise the limit on the size of files and give the same command again.",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _FORBIDDEN,
    errno.EISDIR: _OCCUPIED,
    errno.ENOTDIR: _OCCUPIED,
    errno.EEXIST: _OCCUPIED,
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EBUSY: "A mounted folder cannot be replaced; choose a new folder inside it.",
    errno.EXDEV: "A mounted folder cannot be replaced; choose a new folder inside it.",
}


def refuse_same_file(source: Path, output: Path) -> None:
    """Raise an :class:`OutputError` if both names are one file, also through links."""
    with writing(output):
        try:
            same = source.samefile(output)
        except FileNotFoundError:
            same = source.resolve() == output.resolve()
    if same:
        raise OutputError(f"{output} is the input {source}. Choose another output.")


def check_output_file(path: Path) -> None:
    """Raise an :class:`OutputError` if a folder or a device has the name of an output file."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "It is a folder", str(path))
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "It is not a regular file", str(path))


def check_report_folder(folder: Path, record: str, format_name: str, *others: str) -> None:
    """Check that no report of another program or command would be replaced.

    Args:
        folder: Folder that a report is written to; it need not exist.
        record: Name of the report's JSON file.
        format_name: Its ``format``, by which an earlier report is known.
        *others: Names of the report's other files.

    Raises:
        OutputError: There are such files, but no record of this format beside them.
    """
    with writing(folder):
        there = [name for name in (record, *others) if os.path.lexists(folder / name)]
    if not there:
        return
    try:
        earlier = read_json(folder / record).get("format") == format_name
    except (FileNotFoundError, DamagedFileError):
        earlier = False
    if not earlier:
        raise OutputError(
            f"{folder} holds {', '.join(there)}, which no earlier {format_name} wrote. Choose "
            "another folder."
        )


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when the block ends without an error.

    The content is written beside the name, flushed to the disk and renamed, so that a killed
    process leaves no half file.  Of several processes that write one name, the last one wins.

    Raises:
        OutputError: The file cannot be written.
    """
    check_output_file(path)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file; see :func:`open_atomically`."""
    with open_atomically(path) as file:
        file.write(content)


@contextmanager
def replace_folder(path: Path, recognise: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty folder that replaces ``path`` when the block ends without an error.

    The old folder stays until the new one is complete and on the disk; a process killed between
    the two renames leaves it as ``.<name>.old``, and the next call puts it back first.

    Example:
        >>> def is_model(folder):
        ...     return (folder / "armorm.json").is_file()
        >>> with replace_folder(Path("model"), recognise=is_model) as folder:  # doctest: +SKIP
        ...     save_weights(folder)

    Args:
        path: The folder.
        recognise: Tells whether an existing folder, which is deleted with all its files, may be
            replaced: return False if it holds any file that the caller would not write.

    Raises:
        OutputError: ``path`` is a file or a folder that ``recognise`` does not know, or the new
            folder cannot be written.
    """
    path = path.absolute()
    if path.is_symlink():
        path = path.resolve()
    if not path.name:
        raise _cannot_write(path, errno.EBUSY, "It is the root of all folders")
    new, old = (path.with_name(f".{path.name}.{ending}") for ending in ("new", "old"))
    with exclusive(path, "writing the folder"), writing(path):
        if old.is_dir() and not path.exists():
            old.rename(path)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "It is not a folder", str(path))
        if path.is_dir() and any(path.iterdir()) and not recognise(path):
            raise OutputError(
                f"{path} holds files that would be deleted. Choose an empty or a new folder."
            )
        for leftover in (new, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
        try:
            new.mkdir()
            yield new
            _sync_tree(new)
            if path.exists():
                path.rename(old)
            new.rename(path)
        except BaseException:
            if old.is_dir() and not path.exists():
                old.rename(path)
            shutil.rmtree(new, ignore_errors=True)
            raise
        _sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON atomically.

    Raises:
        ArmormError: A number is not finite, which JSON cannot hold; the message names its field.
        OutputError: The file cannot be written.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ArmormError(f"{path} cannot be written: {not_json(value, error)}") from error
    write_atomically(path, _utf8(text) + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: The file cannot be read, or is not a JSON object.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path} cannot be read: it is not a JSON object.")
    return value


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that others wrote.

    Example:
        >>> parse_json('{"score": 1, "score": 2}')
        Traceback (most recent call last):
        ValueError: two values for the key 'score'

    Raises:
        ValueError: It is not JSON, is nested too deeply, or has a key twice in one object.  The
            message is made to stand after "not valid JSON:".
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):  # advice for programmers
            raise ValueError("a number with thousands of digits") from None
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two values for the key {shorten(twice)}")
    return fields


def json_line(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
    r"""Return a line of a JSON-lines file, always valid UTF-8.

    Example:
        >>> json_line({"name": "é", "half a character": "\ud800"})
        b'{"name": "\xc3\xa9", "half a character": "\\ud800"}\n'

    Args:
        value: Anything that JSON can hold, or that ``default`` converts.
        default: See :func:`json.dumps`.

    Raises:
        InputError: A number is not finite, which JSON cannot hold, at its field; or the value is
            nested too deeply.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=default)
    except ValueError as error:
        raise not_json(value, error) from error
    except RecursionError as error:
        raise InputError("row", value, "nested too deeply", "Remove the row.") from error
    return _utf8(text) + b"\n"


def not_json(value: Any, error: ValueError) -> InputError:
    """Return the error of a value that :func:`json.dumps` refused, at the field that is wrong."""
    field, number = next(_nonfinite(value, ""), ("", None))
    if number is None:
        return InputError("row", value, f"cannot be written as JSON: {error}", "Remove the row.")
    reason = "not a finite number, which JSON cannot hold"
    return InputError(field, number, reason, "Remove it, or write null.")


def _nonfinite(value: Any, field: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield field, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nonfinite(inner, f"{field}.{key}" if field else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for position, inner in enumerate(value):
            yield from _nonfinite(inner, f"{field}[{position}]")


def _utf8(text: str) -> bytes:
    # A lone surrogate has no UTF-8, but its backslash escape is also its JSON escape.
    return text.encode("utf-8", "backslashreplace")


def sha256_of(path: Path) -> str | None:
    """Return the hash of a file's content, or ``None`` if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def sha256_of_files(paths: list[Path]) -> str:
    """Return one hash of the names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(path.name.encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return a hash of a JSON value, independent of the order of keys."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _sync_tree(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        elif file.is_dir():
            _sync_folder(file)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders, and renames there are durable already
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
