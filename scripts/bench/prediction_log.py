"""Measures what the prediction log costs the model server, and what the images' numbers in it cost.

    python -m scripts.bench.prediction_log BUNDLE                # 5 minutes; both cores quiet
    python -m scripts.bench.prediction_log BUNDLE --photo photo.jpg

Three servers run on the first core, with one thread for the model, and are asked in turn by the
clients on the last core: one without the log, one whose log leaves out the seven numbers of
`vision.reference.appearance`, which are then not measured either, and one with the whole log. None
computes drift. A round starts all of them anew and gives each several turns, in which the others
are stopped, so that nothing of theirs falls into it.

`images_per_second` is what the clients get, `cpu_us` the processor's microseconds per request in
the server, which other work on the machine changes less. `ratio` is the processor's time without
the log over that of the server, and the last lines compare the logs with and without the numbers:
means over the rounds with 95 % intervals by Student's t distribution, since what varies is the
machine.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import signal
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
MEASURES = ("images_per_second", "cpu_us")
SIDES = {NONE: SERVER, SHORT: ("-c", WITHOUT_NUMBERS), WHOLE: SERVER}


def main(argv):
    p = serving.make_parser(__doc__, "prediction_log")
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
    for measure, whole, short in (("images_per_second", WHOLE, SHORT), ("cpu_us", SHORT, WHOLE)):
        mean, low, high = _ratio(rounds, measure, whole, short)
        print(
            f"throughput with the numbers over that without, by {measure}: {mean:.3f} "
            f"(95 %: {low:.3f} to {high:.3f})"
        )


def _round(a):
    """Returns {server: {measure: mean of its turns}} of servers that are started for it."""
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
            process = servers[name][-1]
            process.send_signal(signal.SIGSTOP)
            stack.callback(process.send_signal, signal.SIGCONT)  # or it could not end
        for turn in range(a.turns):
            order = [*servers][turn % len(servers) :] + [*servers][: turn % len(servers)]
            for name in order:
                turns[name].append(_turn(a, last, name, *servers[name]))
    return {
        name: {measure: statistics.mean(each[measure] for each in measured) for measure in MEASURES}
        for name, measured in turns.items()
    }


def _turn(a, core, name, port, request, process):
    """Returns {measure: value} of one server's turn."""
    process.send_signal(signal.SIGCONT)
    before = _processor_seconds(process.pid)
    figures = serving.load(port, request, a.clients, a.seconds, core)
    seconds = _processor_seconds(process.pid) - before
    process.send_signal(signal.SIGSTOP)
    if set(figures["answers"]) != {"200"}:
        raise RunError(f"requests to the server with {name} failed: {figures}")
    measures = (figures["requests_per_second"], 1e6 * seconds / figures["sent"])
    return dict(zip(MEASURES, measures, strict=True))


def _processor_seconds(pid):
    """Returns what a process has used, of all of its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = fields[11:13]  # man 5 proc: fields 14 and 15, of which this lacks two
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _row(a, name, rounds):
    """Returns the columns of a server."""
    means = {measure: interval([each[name][measure] for each in rounds])[0] for measure in MEASURES}
    ratio, low, high = _ratio(rounds, "cpu_us", NONE, name)
    columns = {
        "server": name,
        "input": "jpeg" if a.photo else "tensor",
        "clients": a.clients,
        "seconds": a.seconds,
        "turns": a.turns,
        "rounds": a.rounds,
    }
    return columns | means | {"ratio": ratio, "low": low, "high": high}


def _ratio(rounds, measure, name, other):
    """Returns (mean, low, high) of one server's measure over another's, over the rounds."""
    return interval([each[name][measure] / each[other][measure] for each in rounds])


if __name__ == "__main__":
    cli.run(main)
