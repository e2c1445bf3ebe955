"""Measures what the prediction log costs the model server, and what the images' numbers in it cost.

    python -m scripts.bench.prediction_log BUNDLE                # 5 minutes; both cores quiet
    python -m scripts.bench.prediction_log BUNDLE --photo photo.jpg

Three servers run on the first core, with one thread for the model, and are asked in turn by the
clients on the last core: one without the log, one whose log leaves out the seven numbers of
`vision.reference.appearance`, which are then not measured either, and one with the whole log. None
computes drift. A round starts all of them anew and gives each several turns. `ratio` is relative to
the server without the log, and the last line is the whole log relative to the one without the
numbers: means over the rounds with 95 % intervals by Student's t distribution, since what varies is
the machine.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import statistics
import sys
import tempfile

from scripts.bench import common, serving
from vision import cli
from vision.errors import RunError
from vision.search.repeats import interval

# The server's package reads the names when it is imported.
WITHOUT_NUMBERS = """
import runpy
import numpy
from vision.reference import appearance
appearance.NAMES = ()
appearance.measure_all = lambda images: numpy.empty((len(images), 0), numpy.float32)
appearance.measure = lambda image, shape=None: numpy.empty(0, numpy.float32)
runpy.run_module("vision.serving", run_name="__main__")
"""
SERVER = ("-m", "vision.serving")
NONE = "no log"
SHORT = "log without the images' numbers"
WHOLE = "log"
SIDES = {NONE: SERVER, SHORT: ("-c", WITHOUT_NUMBERS), WHOLE: SERVER}


def main(argv):
    p = common.make_parser(__doc__, "prediction_log")
    p.set_defaults(csv="experiments/serving/prediction_log.csv")
    p.add_argument("bundle", type=pathlib.Path)
    p.add_argument(
        "--photo", type=pathlib.Path, help="JPEG to send; default: pixels at the model's size"
    )
    p.add_argument("--clients", type=int, default=32)
    p.add_argument("--seconds", type=float, default=4, help="of a turn")
    p.add_argument("--turns", type=int, default=3, help="of each server in a round")
    p.add_argument("--rounds", type=int, default=6)
    a = p.parse_args(argv)
    rounds = [_round(a) for _ in range(a.rounds)]
    facts = common.facts(a)
    facts["onnxruntime"] = importlib.metadata.version("onnxruntime")
    rows = [_row(a, name, rounds) for name in SIDES]
    common.print_table(rows)
    common.write_rows(a.csv, [facts | row for row in rows])
    mean, low, high = _ratio(rounds, WHOLE, SHORT)
    print(f"with the numbers over without: {mean:.3f} (95 %: {low:.3f} to {high:.3f})")


def _round(a):
    """Returns {server: images/s, the mean of its turns} of servers that are started for it."""
    first, *_, last = sorted(os.sched_getaffinity(0))
    turns = {name: [] for name in SIDES}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, start in SIDES.items():
            flags = []
            if name != NONE:
                log = stack.enter_context(tempfile.TemporaryDirectory())
                flags = [f"--prediction-log={log}", "--drift-window=0"]
            running = serving.serve("vision", sys.executable, a, first, start, flags)
            servers[name] = stack.enter_context(running)
        for _ in range(a.turns):
            for name, (port, request) in servers.items():
                figures = serving.load(port, request, a.clients, a.seconds, last)
                if set(figures["answers"]) != {"200"}:
                    raise RunError(f"requests to the server with {name} failed: {figures}")
                turns[name].append(figures["requests_per_second"])
    return {name: statistics.mean(speeds) for name, speeds in turns.items()}


def _row(a, name, rounds):
    """Returns the columns of a server."""
    speed, *_ = interval([speeds[name] for speeds in rounds])
    ratio, low, high = _ratio(rounds, name, NONE)
    return {
        "server": name,
        "input": "jpeg" if a.photo else "tensor",
        "clients": a.clients,
        "seconds": a.seconds,
        "turns": a.turns,
        "rounds": a.rounds,
        "images_per_second": speed,
        "ratio": ratio,
        "low": low,
        "high": high,
    }


def _ratio(rounds, name, other):
    """Returns (mean, low, high) of one server's images/s relative to another's, over the rounds."""
    return interval([speeds[name] / speeds[other] for speeds in rounds])


if __name__ == "__main__":
    cli.run(main)
