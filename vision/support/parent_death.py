"""Lets Linux kill a process when the one that started it ends, even by a `kill -9`.

`vision.support.processes.bound` also runs this file as a program, which then becomes the command:
it imports nothing that takes time. So no code runs between a fork and the command, where the
threads of JAX would have left locks behind.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
NOT_STARTED = 127  # a shell's exit code


def end_with(parent: int) -> None:
    """Lets the kernel kill this process when the thread that started it ends; Linux only.

    The kernel looks at the thread, not at its process: only for a process that was started by a
    main thread, or by one that waits for it.

    Args:
        parent: the process that has started this one; if it has ended by now, so does this one.
    """
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before the call, which then waits for another one
        os._exit(1)


def main(parent: str, *command: str) -> None:
    """Becomes a command that ends with a process."""
    end_with(int(parent))
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"it cannot be started ({error.strerror or error})\n")
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main(*sys.argv[1:])
