"""Commands that are killed with SIGKILL at random moments and then repeated to their end."""

import os
import random
import shutil
import signal
import time

from experiments.reliability.stages import finish, finish_undisturbed, is_gone, listing, start

KILLS = {  # of each stage, 100 in all
    "train, resident": 16,
    "train, loaded": 16,
    "train, packed": 12,
    "train, 2 processes": 10,
    "pack": 10,
    "audit": 8,
    "export": 8,
    "export over a bundle": 6,
    "prune": 6,
    "evaluation": 8,
}
IN_A_ROW = 4  # kills of one directory before its command may end
ORPHANS = 20.0  # seconds in which workers must follow a killed parent


def run(work, stages, kills=KILLS, seed=0):
    """Yields a row per directory that was killed and finished.

    A row says how often it was killed, whether it ended with the bits of an uninterrupted command,
    and what was left over.
    """
    for name, count in kills.items():
        stage = stages[name]
        reference, seconds = _reference(work, stage)
        generator = random.Random(f"{seed} {name}")
        done = 0
        number = 0
        while done < count:
            out = work / "kills" / _plain(name) / str(number)
            shutil.rmtree(out, ignore_errors=True)
            number += 1
            wanted = min(IN_A_ROW, count - done)
            row = _kill_and_finish(stage, out, wanted, seconds, generator, reference)
            done += row["kills"]
            yield row
            if row["ok"]:
                shutil.rmtree(out, ignore_errors=True)


def _plain(name):
    return "".join(c if c.isalnum() else "-" for c in name)


def _reference(work, stage):
    """Returns ((fingerprint, listing), seconds) of the command without an interruption."""
    out = work / "references" / _plain(stage.name)
    ended = finish_undisturbed(stage, out)
    return (stage.fingerprint(out), listing(out)), ended.seconds


def _kill_and_finish(stage, out, wanted, seconds, generator, reference):
    """Returns the row of one directory."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if stage.prepare:
        stage.prepare(out)
    problems = []
    kills = 0
    for _ in range(wanted):
        process = start(stage.environment, stage.command(str(out)))
        time.sleep(generator.uniform(0.1, seconds))
        if process.poll() is not None:
            process.communicate()
            if process.returncode:
                problems.append(f"ended with {process.returncode} before it was killed")
            break
        kills += 1
        # Every second kill takes only the parent, as the kernel's does: workers must follow.
        if generator.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        if not is_gone(process.pid, ORPHANS):
            problems.append("processes outlived their parent")
            os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
    ended = finish(stage, out)
    if ended.code:
        problems.append(f"the next call ended with {ended.code}: {ended.text[-300:]}")
    else:
        fingerprint, names = reference
        if stage.fingerprint(out) != fingerprint:
            problems.append("other bits")
        left = set(listing(out)) - set(names)
        missing = set(names) - set(listing(out))
        beside = [p.name for p in out.parent.iterdir() if p.name.startswith(f"{out.name}.")]
        if left or missing or beside:
            problems.append(f"left over {sorted(left)[:3] + beside}, missing {sorted(missing)[:3]}")
    return {
        "stage": stage.name,
        "kills": kills,
        "ok": not problems,
        "seconds": round(ended.seconds, 1),
        "problem": "; ".join(problems).replace("\n", " "),
    }
