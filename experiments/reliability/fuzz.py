"""Mutates a small valid input of every parser of ours, and counts what the parser makes of it.

    python -m experiments.reliability.fuzz --mutations 10000 --out fuzz.csv
    python -m experiments.reliability.fuzz --only coco --seed 1 --mutations 500

A parser may accept a mutation or refuse it in one message: `UserError`, `RunError`, or for an image
`UnreadableImage`. Anything else is a failure, whose file and traceback are kept in --failures: an
exception of a library, a process that dies, one that takes 10 s or more memory than --memory-gib.
"""

import argparse
import concurrent.futures
import csv
import multiprocessing
import pathlib
import random
import resource
import time
import traceback
from collections.abc import Iterable
from typing import Any

from vision.support.processes import cores

OUTCOMES = ("accepted", "refused", "failed", "hung", "died")
PATIENCE = 10.0  # seconds for one mutation
START = 180.0  # seconds until a worker has imported everything and written its valid input
COLUMNS = ("parser", "mutations", *OUTCOMES, "seconds", "seed")


def run(
    mutations: int,
    seed: int,
    out: pathlib.Path | str,
    only: Iterable[str] = (),
    failures: pathlib.Path | str = "",
    memory_gib: float = 6.0,
    workers: int = 0,
) -> list[dict[str, Any]]:
    """Runs the mutations of all parsers and writes a line for each into a CSV file.

    Args:
        mutations: number for each parser.
        seed: seed of the mutations: the same seed gives the same files.
        out: the CSV file; "" writes none.
        only: names of the parsers; empty for all.
        failures: folder for the files that a parser failed on; "" keeps none.
        memory_gib: memory that a worker may map on top of what it has at the beginning.
        workers: number of parsers that are tried at the same time; 0 for one on each core.

    Returns:
        The lines, {"parser", "mutations", "accepted", "refused", "failed", "hung", "died",
        "seconds", "seed"}.
    """
    from experiments.reliability.parsers import parsers

    names = [name for name in parsers() if not only or name in set(only)]

    def measure(name):
        began = time.perf_counter()
        counts = _run_parser(name, mutations, seed, failures, memory_gib)
        seconds = round(time.perf_counter() - began, 1)
        row = {"parser": name, "mutations": mutations} | counts
        return row | {"seconds": seconds, "seed": seed}

    rows = []
    with concurrent.futures.ThreadPoolExecutor(workers or cores()) as pool:
        for row in pool.map(measure, names):
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if out:
                _write(out, rows)
    return rows


def _write(out, rows):
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _run_parser(name, mutations, seed, failures, memory_gib):
    """Returns {outcome: count}; a worker that hangs or dies is replaced."""
    counts = dict.fromkeys(OUTCOMES, 0)
    context = multiprocessing.get_context("spawn")
    index = 0
    while index < mutations:
        ours, theirs = context.Pipe()
        arguments = (theirs, name, index, mutations, seed, str(failures), memory_gib)
        worker = context.Process(target=_work, args=arguments, daemon=True)
        worker.start()
        theirs.close()
        ending = _follow(ours, counts, index, mutations)
        index = ending[0] + 1
        if ending[1]:
            counts[ending[1]] += 1
            _keep(failures, name, ending[0], seed, ending[1])
        worker.kill()
        worker.join()
    return counts


def _follow(pipe, counts, index, mutations):
    """Counts a worker's outcomes; returns (the last mutation, "hung", "died" or "")."""
    patience = START
    while index < mutations:
        if not pipe.poll(patience):
            return index, "hung"
        try:
            outcome = pipe.recv()
        except EOFError:
            return index, "died"
        patience = PATIENCE
        if outcome == "ready":
            continue
        counts[outcome] += 1
        index += 1
    return index, ""


def _work(pipe, name, start, stop, seed, failures, memory_gib):
    """Reads the mutations [start, stop) of a parser, in a process of its own."""
    from experiments.reliability.foreign import place, scratch
    from experiments.reliability.parsers import parsers
    from tests.support.mutations import mutate

    parser = parsers()[name]
    with scratch() as folder:
        file, read = parser.prepare(place(folder, name))
        valid = file.read_bytes()
        read()  # imports what it needs, and may take the input away
        _limit_memory(memory_gib)
        pipe.send("ready")
        for index in range(start, stop):
            data = mutate(valid, parser.form, random.Random(f"{seed} {name} {index}"))
            file.unlink(missing_ok=True)  # a library may have mapped it into memory
            file.write_bytes(data)
            outcome, text = try_reading(read)
            if text and failures:
                _keep(failures, name, index, seed, text, data)
            pipe.send(outcome)


def try_reading(read) -> tuple[str, str]:
    """Returns (outcome, traceback) of a function that reads a file; "" without a failure."""
    from vision.data.decode import UnreadableImage
    from vision.errors import RunError, UserError

    try:
        read()
    except (UserError, RunError, UnreadableImage) as error:
        if not str(error).strip() or "\x1b" in str(error):
            return "failed", f"a message that cannot be shown: {str(error)!r}"
        return "refused", ""
    except BaseException:
        return "failed", traceback.format_exc()
    return "accepted", ""


def _limit_memory(gib):
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _keep(failures, name, index, seed, text, data=b""):
    if not failures:
        return
    folder = pathlib.Path(failures)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace(' ', '-')}-{seed}-{index}"
    (folder / f"{stem}.txt").write_text(text, errors="backslashreplace")
    if data:
        (folder / f"{stem}.bin").write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000, help="for each parser")
    parser.add_argument("--only", action="append", default=[], help="name of a parser; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="CSV file")
    parser.add_argument("--failures", default="", help="folder for files that a parser failed on")
    parser.add_argument("--memory-gib", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=0, help="0 = one on each core")
    a = parser.parse_args()
    rows = run(a.mutations, a.seed, a.out, a.only, a.failures, a.memory_gib, a.workers)
    bad = sum(row[outcome] for row in rows for outcome in ("failed", "hung", "died"))
    print(
        f"{len(rows)} parsers, {sum(row['mutations'] for row in rows):,} mutations, {bad} failures"
    )
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
