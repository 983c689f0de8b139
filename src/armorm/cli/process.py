"""One run of the command line: signals, errors and exit codes.

This module imports nothing heavy, so that a signal is handled from the first moment on.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from armorm.cli.terminal import print_line
from armorm.errors import ArmormError, InputError, RecipeError

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Signals:
    """Signals that end the process, and the line that says so.

    The first signal unwinds the stack, so that files and processes are closed in order. A second
    one leaves at once, whatever is still being closed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.resumable = False
        """The running command resumes its work when it is given again."""

    def watch(self, receive: Callable[[int, FrameType | None], None] | None = None) -> None:
        """Handle both signals, unless the parent process ignores them, as ``nohup`` does."""
        for number in NAMES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, receive or self._unwind)
        sys.unraisablehook = self._again_if_lost

    def _again_if_lost(self, lost: sys.UnraisableHookArgs) -> None:
        """Send a signal again if it came where Python drops exceptions, such as in ``__del__``."""
        if self.received is None or not isinstance(lost.exc_value, KeyboardInterrupt | SystemExit):
            sys.__unraisablehook__(lost)
            return
        number, self.received = self.received, None
        # A moment later: here it would be lost again.
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    def watch_exit(self) -> None:
        """Handle both signals while the interpreter shuts down, when nothing is left to unwind."""
        self.watch(lambda number, _: self._leave(number))

    def line(self, number: int) -> str:
        """Return the line that says what happened, and that the work can be resumed."""
        more = ": give the same command again to resume" if self.resumable else ""
        return f"{NAMES[signal.Signals(number)]}{more}"

    def _unwind(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            self._leave(number)
        self.received = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _leave(self, number: int) -> NoReturn:
        # Not through sys.stderr: the signal may have come while that was being written.
        os.write(2, f"{self.line(number)}\n".encode())
        os._exit(128 + number)


signals = Signals()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 done; 1 failed; 2 wrong usage or recipe; 3 invalid input; 4 a rule of ``audit``
    or ``diff`` is broken, or ``monitor`` found drift; 130 interrupted (SIGINT); 141 the reader of
    the output left; 143 terminated (SIGTERM).

    Args:
        arguments: Default: those of the process.
    """
    try:
        signals.watch()
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from armorm.cli.application import app

        app(list(sys.argv[1:] if arguments is None else arguments), prog_name="armorm")
        code = 0
    except BaseException as error:  # noqa: BLE001 (the last one to see it; nothing is hidden)
        code = _report(error)
    signals.watch_exit()
    sys.exit(_flush(code))


def _open_closed_streams() -> None:
    """Replace standard streams that the caller closed; else files would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def reader_left() -> bool:
    """Return true when standard output is a pipe whose reader has closed it."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _report(error: BaseException) -> int:
    """Print an error on standard error and return the exit code."""
    # An import that a signal stops may end in an error of another class.
    if signals.received is not None:
        print_line(signals.line(signals.received), error=True)
        return 128 + signals.received
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, ArmormError):
        print_line(f"error: {error}", error=True)
        if isinstance(error, RecipeError):
            return 2
        return 3 if isinstance(error, InputError) else 1
    if isinstance(error, OSError) and (code := _flush(0)):  # standard output is what failed
        return code
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename or "standard output, or a file,"
        print_line(f"error: {place} cannot be read or written: {error.strerror}", error=True)
        return 1
    _report_unexpected(error)
    return 1


def _report_unexpected(error: BaseException) -> None:
    """Print an error that no one foresaw; the traceback goes to a file, or is printed on request.

    Hours of work may have led to it, so the traceback is never lost.
    """
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(error))
    if os.environ.get("ARMORM_DEBUG"):
        print_line(text, error=True)
    summary = traceback.format_exception_only(error)[-1].strip()
    print_line(f"error: {summary}", error=True)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="armorm-", suffix=".traceback", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        place = f"in {file.name} (ARMORM_DEBUG=1 prints it)"
    except OSError:
        place = "that ARMORM_DEBUG=1 prints"
    print_line(
        f"This error was not expected and may be a bug: report it with the traceback {place}.",
        error=True,
    )


def _flush(code: int) -> int:
    """Write what is buffered, so that a failure to do so becomes an exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's flush succeeds
        if code or isinstance(error, BrokenPipeError):
            return code or 128 + signal.SIGPIPE
        print_line(f"error: standard output cannot be written: {error.strerror}", error=True)
        return 1
    return code
