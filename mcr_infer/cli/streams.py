"""Standard output and standard error of a command: names are printed escaped, and a stream that fails costs one line.

    a result -> say -> stdout     cannot be written: one line on stderr, exit code 1; its reader is gone: exit code 141
    a note   -> say -> stderr     cannot be written: it is lost, and nothing else; the work goes on

What is printed for people goes through `say`. JSON goes to stdout as `json.dumps` makes it: ASCII, names exact.
"""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mcr_infer.errors import McrError

CLOSED_PIPE = 128 + signal.SIGPIPE
"""Exit code where the reader of stdout went away, as in `| head -1`: that which a shell reports after SIGPIPE."""


class OutputError(Exception):
    """Standard output cannot be written.

    No `OSError`, which click takes for its own, and no `McrError`, which is about inputs and indexes.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or type(cause).__name__)
        self.errno = cause.errno


def printable(text: str) -> str:
    """Return a text as it may be shown on a terminal, in one line: what is no visible character or space is escaped.

    A file name can hold a line end, an escape sequence that rewrites the screen, or a mark that turns the reading direction.
    Bytes that are not UTF-8, which Python keeps as surrogates, become `\\xNN`.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode("ascii")


def say(line: str, *, to_stderr: bool = False) -> None:
    """Print one line for people, escaped."""
    print(printable(line), file=sys.stderr if to_stderr else sys.stdout)


def say_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns that are as wide as their widest cell; nothing is ever cut, so that paths can be copied."""
    table = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def run(command: Callable[[], object]) -> NoReturn:
    """Run the command of this process and end it with the exit code that the command returns or raises.

    Every error of ours becomes one line on stderr and its exit code.
    """
    _guard_streams()
    raise SystemExit(_code_of(command))


def _code_of(command: Callable[[], object]) -> int:
    try:
        code = _code_of_command(command)
        sys.stdout.flush()
    except OutputError as lost:
        if lost.errno == errno.EPIPE:
            return CLOSED_PIPE
        say(
            f"error: the result cannot be written to standard output: {lost}; what the command changed stays changed",
            to_stderr=True,
        )
        return 1
    return code


def _code_of_command(command: Callable[[], object]) -> int:
    try:
        code = command()
    except McrError as error:
        say(f"error: {error}", to_stderr=True)
        return error.exit_code
    except SystemExit as end:
        code = end.code
    if code is None or isinstance(code, int):
        return code or 0
    say(str(code), to_stderr=True)
    return 1


def _guard_streams() -> None:
    """Put streams in the place of stdout and stderr that encode every name, and fail as this module says."""
    closed = [descriptor for descriptor in range(3) if not _is_open(descriptor)]
    for descriptor in closed:
        # Otherwise the next file that is opened would have this number, and whatever a library prints would go into it.
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
        assert _is_open(descriptor)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        former = getattr(sys, name)
        if former is not None and not isinstance(former, io.TextIOWrapper):
            continue  # of a program that runs a command inside itself
        raw = _Descriptor(descriptor, closed=descriptor in closed or former is None, quiet=name == "stderr")
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),  # type: ignore[type-var]
            encoding="utf-8" if former is None else former.encoding,
            errors="backslashreplace",
            line_buffering=name == "stderr" or (former is not None and former.line_buffering),
        )
        setattr(sys, name, stream)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class _Descriptor(io.RawIOBase):
    """A descriptor that is written to until that fails once; it stays open when this is closed."""

    def __init__(self, descriptor: int, *, closed: bool, quiet: bool) -> None:
        self._descriptor, self._quiet = descriptor, quiet
        self._failure = OSError(errno.EBADF, os.strerror(errno.EBADF)) if closed else None
        self._told = quiet

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write some bytes and return how many; once it has failed, take all and write nothing."""
        while self._failure is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # a reader that shares it has made it so
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._failure = error
        if not self._told:
            self._told = True
            raise OutputError(self._failure) from self._failure
        return len(data)
