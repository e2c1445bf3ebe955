"""Runs a command as a program: errors in one message, and exit codes."""

import errno
import io
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from vision.errors import RunError, UserError, brief, printable
from vision.stages import as_called
from vision.support import disk, progress, signals, streams
from vision.support.processes import MORE_FILES, allow_files

LONGEST_END = 5.0  # seconds that a failed command waits for libraries' threads


def run(
    command: Callable[[list[str]], object],
    argv: Sequence[str] | None = None,
    outlives_output: bool = False,
) -> None:
    """Runs `command(argv)` as a program.

    A `UserError` becomes one message on stderr and exit code 2, a `RunError` one and exit code 1,
    as do a file that cannot be written, for example on a full disk, and too many open files; Ctrl-C
    gives exit code 130, SIGTERM 143. If it is silent for long, a line on stderr says that it still
    works (`vision.support.progress`). `--traceback` among the arguments also shows where an error
    came from. A command that fails, or gets a signal, ends within seconds, whatever threads
    libraries have left running.

    Args:
        command: takes the arguments, without the program's name and without `--traceback`.
        argv: arguments; None for those of this process.
        outlives_output: whether the command goes on without stdout, if its reader (such as `head`)
            has closed it or its disk is full, because its results are files. It always goes on
            without stderr.
    """
    streams.fill_closed()
    streams.outlast("stderr")
    if outlives_output:
        streams.outlast("stdout")
    else:
        streams.share_terminal()
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in arguments
    # a file name may not be valid text, but must print all the same
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    if not _has_working_directory():
        print(
            "error: the working directory was removed: change to one that exists", file=sys.stderr
        )
        sys.exit(2)
    allow_files()
    try:
        with signals.ending(), progress.command():
            command([argument for argument in arguments if argument != "--traceback"])
        sys.stdout.flush()
    except signals.Terminated:
        _exit(command, 143)
    except (KeyboardInterrupt, signals.Interrupted):
        _exit(command, 130)
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        streams.drop_output()
        sys.exit(1)
    except Exception as error:
        message = _message(error)
        if not message:
            raise
        if show_traceback:
            traceback.print_exc()
        print(f"error: {printable(as_called(message), lines=True)}", file=sys.stderr)
        _flush_output()
        _exit(command, 2 if isinstance(error, UserError) else 1)


def show(*lines: str) -> None:
    """Prints lines, in which names of files and classes may be, so that a terminal obeys none.

    Commands in them have the form in which the user called (`vision.stages.as_called`).
    """
    progress.print_above("\n".join(printable(as_called(line)) for line in lines), sys.stdout)


def _message(error):
    """Returns what the user is told about an error; "" for a mistake of the program."""
    if isinstance(error, UserError | RunError):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)[:200]:  # XLA's
        return f"not enough memory: {brief(error)}: lower the batch size"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files.\n{MORE_FILES}"
    return disk.explain(error)


def _has_working_directory():
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _flush_output():
    try:
        sys.stdout.flush()
    except OSError:
        streams.drop_output()


def _exit(command, code):
    """Ends the process, within seconds: Python waits for every thread that is not a daemon."""
    if command.__module__ == "__main__":  # not called by another program, such as a test
        threading.Thread(target=_end, args=(code,), daemon=True).start()
    sys.exit(code)


def _end(code):
    time.sleep(LONGEST_END)
    os._exit(code)
