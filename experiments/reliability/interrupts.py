"""Trainings that get SIGTERM or SIGINT, to the whole process group, at random moments."""

import functools
import json
import os
import random
import shutil
import signal
import time

from experiments.reliability.stages import (
    Stage,
    finish,
    finish_undisturbed,
    is_gone,
    run_fingerprint,
    start,
    train,
    wait,
)

COUNTS = {"loaded, two workers": 60, "slow steps": 40}
FROM = 1.0  # seconds: before that, Python is starting
SAVE_AND_EXIT = 5.0  # seconds on two busy cores: a checkpoint, and the end of the interpreter
WORKERS = 3.0  # seconds in which workers follow their parent
LONGEST = 20.0  # seconds after which a slow run gets its signal at the latest


def run(work, counts=COUNTS, seed=0):
    """Yields a row per signal, and one per directory that was interrupted until it ended."""
    kinds = {"loaded, two workers": f"loaded:{work / 'photos'}", "slow steps": "slow"}
    for name, count in counts.items():
        stage = Stage(name, functools.partial(train, kinds[name]), _fingerprint)
        reference, seconds, step = _reference(work, stage)
        generator = random.Random(f"{seed} {name}")
        sent = 0
        number = 0
        while sent < count:
            out = work / "interrupts" / f"{kinds[name].partition(':')[0]}-{number}"
            shutil.rmtree(out, ignore_errors=True)
            number += 1
            ended = False
            while not ended and sent < count:
                row, ended = _interrupt(stage, out, seconds, step, generator)
                if not ended:
                    sent += 1
                    yield {"run": name, "directory": number} | row
            done = finish(stage, out)
            same = done.code == 0 and _fingerprint(out) == reference
            yield {
                "run": name,
                "directory": number,
                "signal": "none: run to its end",
                "ok": same,
                "problem": "" if same else f"other bits, or {done.text[-300:]}".replace("\n", " "),
            }


def _fingerprint(out):
    """Returns what an interruption leaves as it is: results, validations, the last weights.

    Lines of training are not among it: each save ends one, so their steps differ.
    """
    parts = run_fingerprint(out)
    validations = [line for line in parts["metrics"] if "val/loss" in line]
    last = max(parts["checksums"], key=int)
    return parts["result"], validations, parts["checksums"][last]


def _reference(work, stage):
    """Returns (fingerprint, seconds, seconds of a step) of the run without an interruption."""
    out = work / "references" / "interrupts"
    ended = finish_undisturbed(stage, out)
    result = json.loads((out / "result.json").read_text())
    step = result["config"]["train"]["batch_size"] / result["images_per_second"]
    return _fingerprint(out), ended.seconds, step


def _interrupt(stage, out, seconds, step, generator):
    """Returns (row, whether the run had ended before the signal)."""
    process = start(stage.environment, stage.command(str(out)))
    moment = generator.uniform(FROM, min(seconds, LONGEST))
    number = generator.choice((signal.SIGTERM, signal.SIGINT))
    time.sleep(moment)
    if process.poll() is not None:
        process.communicate()
        return {}, True
    os.killpg(process.pid, number)
    ended = wait(process, 120)
    problems = []
    if ended.code:
        problems.append(f"exit status {ended.code}: {ended.text[-300:]}")
    if ended.has_traceback:
        problems.append("a traceback")
    bound = 2 * step + SAVE_AND_EXIT
    if ended.seconds > bound:
        problems.append(f"took {ended.seconds:.1f} s, more than {bound:.1f}")
    if not is_gone(process.pid, WORKERS):
        problems.append("processes are left")
        os.killpg(process.pid, signal.SIGKILL)
    return {
        "signal": number.name,
        "after_seconds": round(moment, 1),
        "seconds_to_exit": round(ended.seconds, 1),
        "seconds_of_a_step": round(step, 2),
        "exit": ended.code,
        "ok": not problems,
        "problem": "; ".join(problems).replace("\n", " "),
    }, False
