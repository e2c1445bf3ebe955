"""Starts `torch_worker.py` and asks it to run."""

import json
import subprocess
import sys

from scripts.bench.common import ROOT
from vision.errors import UserError


class TorchSide:
    """PyTorch in a process of its own, with its own allocator and possibly its own environment.

    Args:
        python: interpreter that has torch; "" is the one that runs this.
        kind: "step", "loader", "epoch", "inference" or "input".
        **spec: specification of what the worker builds; see `torch_worker.py`.

    Attributes:
        facts: {"torch": version, "device", ...}.
        peak_bytes: the worker's peak memory after the last run.

    Raises:
        UserError: torch, or something else that the worker needs, is missing there.
    """

    def __init__(self, python, kind, **spec):
        command = [python or sys.executable, "-m", "experiments.speed.torch_worker"]
        try:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        except OSError as error:
            raise UserError(f"--torch-python {python}: {error.strerror}") from error
        self.peak_bytes = None
        answer = self._ask(kind=kind, **spec)
        if "missing" in answer:
            self.close()
            where = python or "this environment"
            raise UserError(
                f"cannot compare: {answer['missing']} (in {where}; --torch-python names another)"
            )
        self.facts = answer["ready"]

    def check_parameters(self, ours):
        """Ends the process if its model is another one than ours.

        Raises:
            UserError: it has not `ours` parameters.
        """
        theirs = self.facts["parameters"]
        if theirs != ours:
            self.close()
            raise UserError(f"not the same model: torch's has {theirs:,} parameters, ours {ours:,}")

    def run(self, steps):
        """Returns the seconds that `steps` steps take."""
        answer = self._ask(steps=steps)
        self.peak_bytes = answer["peak_bytes"]
        return answer["seconds"]

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, **request):
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(
                f"torch's side ended with code {self._process.wait()}; its output is above"
            )
        return json.loads(line)
