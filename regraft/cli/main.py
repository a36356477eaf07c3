"""The command `regraft`: runs a command and turns whatever happens into a message and an exit code, here and nowhere else."""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from regraft.errors import Interrupted, OutOfSpace, RegraftError, UsageError
from regraft.launch import launched

_FULL = {errno.ENOSPC, errno.EFBIG, errno.ENOMEM, getattr(errno, "EDQUOT", errno.ENOSPC)}
_USERS_OWN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
INTERRUPTED, TERMINATED, BUG = 130, 143, 1
# Begins each further line of a message that lists files; indented so far that nothing is taken for a line of its own.
LIST_ITEM = "\n       "


class Terminated(BaseException):
    """SIGTERM arrived. No Exception, so that nothing on the way takes it for a failure of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the codes are listed in docs/errors.md."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    rest, debug = _without_debug(given)
    _open_closed_streams()
    _leave_results_to_the_first()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a letter of a file name is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    with _sigterm_raises(), warnings.catch_warnings():
        if not debug and not sys.warnoptions:
            # Warnings of libraries speak to programmers.
            warnings.simplefilter("ignore")
        try:
            code = _run(rest)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            _forget_stdout()
            return 0
        except BaseException as error:
            code = _explain(error, debug)
            _flush_or_forget()
            return code


def _open_closed_streams() -> None:
    """A stream that was closed before the start (`>&-`) is None in Python; nothing is lost by what goes nowhere instead."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (open to the end)


def _leave_results_to_the_first() -> None:
    """Of several processes that work on one command only the first one writes results."""
    launch = launched()
    if launch is not None and launch.rank > 0:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (open to the end)


def _said_elsewhere(text: str) -> bool:
    """Whether another process of the same command has told the user this already."""
    launch = launched()
    return launch is not None and launch.size > 1 and not launch.first_to_say(text)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [word for word in arguments[:end] if word != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _run(arguments: list[str]) -> int:
    import typer

    from regraft.cli.app import app

    command = typer.main.get_command(app)
    try:
        # Not command.main(), which has exit codes of its own for interrupts and closed pipes.
        with command.make_context("regraft", arguments, obj=arguments) as context:
            command.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    return 0


def _explain(error: BaseException, debug: bool) -> int:
    """Tell the user what happened, and return the exit code."""
    if debug and not isinstance(error, SystemExit):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, Interrupted):
        told = "told to end (SIGTERM)" if error.number == signal.SIGTERM else "interrupted"
        _say_once(f"{told}; the training is kept: the same command with --resume goes on with it")
        return TERMINATED if error.number == signal.SIGTERM else INTERRUPTED
    if isinstance(error, KeyboardInterrupt):
        _say_once("interrupted")
        return INTERRUPTED
    if isinstance(error, Terminated):
        _say_once("told to end (SIGTERM)")
        return TERMINATED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        # Typer's usage errors; their class has no public name.
        if not _said_elsewhere(str(error)):
            error.show()
        return int(error.exit_code)
    known = _as_known(error)
    if known is None:
        return _explain_bug(error, debug)
    if _said_elsewhere(str(known)):
        return known.exit_code
    # Not str(known): a line break in a file's name would look like another line of the message.
    for word, text in (("expected", known.expected), ("got", known.got), ("fix", known.fix)):
        first, *items = text.split(LIST_ITEM)
        _say(f"{word:>8} {first}")
        for item in items:
            _say(f"{LIST_ITEM[1:]}{item}")
    return known.exit_code


def _as_known(error: BaseException) -> RegraftError | None:
    """The error as one of ours, where the machine or the user is its cause and not a bug."""
    if isinstance(error, RegraftError):
        return error
    # torch has out-of-memory errors of its own, one of them a bare RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return OutOfSpace(
            expected="enough memory",
            got=str(error) or "none left",
            fix="close other programs, or use a smaller --size or --device cpu",
        )
    if not isinstance(error, OSError):
        return None
    where = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if error.errno in _FULL:
        return OutOfSpace(expected="room to write", got=where, fix="free some space, or write to another place")
    if error.errno in _USERS_OWN and error.filename:
        return UsageError(expected="to be able to use that path", got=where, fix="check the path and its permissions")
    return None


def _explain_bug(error: BaseException, debug: bool) -> int:
    path = None if debug else _log(error)
    where = f"; the traceback is in {path}" if path else "" if debug else "; --debug shows the traceback"
    _say(f"a bug in regraft: {type(error).__name__}: {error}{where}")
    return BUG


def _log(error: BaseException) -> Path | None:
    """Write the traceback to a file and return its path; None where no place can be written to."""
    import tempfile
    import time
    import traceback

    import platformdirs

    name = f"regraft-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = "".join(traceback.format_exception(error))
    for folder in (platformdirs.user_log_path("regraft", appauthor=False), Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            return folder / name
    return None


def _say_once(line: str) -> None:
    if not _said_elsewhere(line):
        _say(line)


def _say(line: str) -> None:
    from regraft.data.names import printable

    with suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:  # else somebody leaves, and is not to be disturbed
            signal.signal(signal.SIGTERM, before)


def _flush_or_forget() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _forget_stdout()


def _forget_stdout() -> None:
    """Let the interpreter flush into nothing when it ends, where it would complain about the closed pipe once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
