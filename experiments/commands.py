"""Commands of the project as an experiment gives them: shown, run, and never repeated."""

import contextlib
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping

from vision.errors import RunError
from vision.support import progress


def call(
    module: str,
    *words: str,
    config: Mapping[str, object] | None = None,
    allowed: Collection[int] = (0,),
    output: pathlib.Path | None = None,
    stdout: pathlib.Path | None = None,
) -> int:
    """Shows a command, runs it, and returns its exit code; it shows its own progress.

    Args:
        module: what follows `python -m`.
        *words: its arguments.
        config: {key: value} of its flags --config.KEY=VALUE.
        allowed: the exit codes that do not mean a failure.
        output: what the command writes; if that exists, nothing is run and 0 returned.
        stdout: the file for what it prints; None shows that.

    Raises:
        RunError: the exit code is not an allowed one.
    """
    if output is not None and output.exists():
        return 0
    flags = (f"--config.{key}={value}" for key, value in (config or {}).items())
    arguments = [module, *words, *flags]
    print("$ python -m", shlex.join(arguments), flush=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(stdout.open("w")) if stdout is not None else None
        stack.enter_context(progress.quiet(beside=True))
        code = subprocess.run([sys.executable, "-m", *arguments], stdout=file).returncode
    if code not in allowed:
        raise RunError(f"the experiment ends here: {module} exited with code {code}")
    return code
