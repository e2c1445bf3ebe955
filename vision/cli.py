"""Runs a command as a program: errors in one message, and exit codes."""

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from vision.errors import RunError, UserError, printable


def run(command: Callable[[list[str]], object], argv: Sequence[str] | None = None) -> None:
    """Runs `command(argv)` as a program.

    A `UserError` becomes one message on stderr and exit code 2, a `RunError` one and exit code 1;
    Ctrl-C gives exit code 130. `--traceback` among the arguments also shows where an error came
    from.

    Args:
        command: takes the arguments, without the program's name and without `--traceback`.
        argv: arguments; None for those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in arguments
    # a file name may not be valid text, but must print all the same
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command([argument for argument in arguments if argument != "--traceback"])
    except (UserError, RunError) as error:
        if show_traceback:
            traceback.print_exc()
        print(f"error: {printable(str(error), lines=True)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        # or Python complains again when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
