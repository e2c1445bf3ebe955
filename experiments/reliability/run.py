"""Kills, full disks, damaged files, signals and memory: does a run survive what really happens?

    python -m experiments.reliability.run --steel ../shared/data/neu_det.tar
    python -m experiments.reliability.run --steel neu_det.tar --only kills,interrupts

Writes a CSV for each part and the table in README.md. A part that was run is not run again unless
--only names it. Needs the dev extra and two cores; the disks need root. About 90 minutes.
"""

import argparse
import csv
import datetime
import os
import pathlib
import platform
import subprocess

from experiments.reliability import disks, fuzz, interrupts, kills, memory
from experiments.reliability.stages import prepare, stages
from experiments.table import read_rows

HERE = pathlib.Path(__file__).parent
PARTS = ("kills", "disks", "interrupts", "fuzz", "classes", "day")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steel", type=pathlib.Path, required=True, help="neu_det.tar")
    parser.add_argument("--only", default="", help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/reliability"))
    parser.add_argument("--mutations", type=int, default=10_000, help="of each parser")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    work = flags.workdir.absolute()
    prepare(work, flags.steel)
    wanted = flags.only.split(",") if flags.only else PARTS
    for part in PARTS:
        if part in wanted and (flags.only or not _file(part).is_file()):
            rows = _with_context(_rows(part, work, flags))
            _write(part, rows)
    write_table()


def _rows(part, work, flags):
    """Returns an iterator over the rows of a part."""
    if part == "kills":
        return kills.run(work, stages(work), seed=flags.seed)
    if part == "disks":
        if not disks.is_possible(work):
            raise SystemExit("disks: this user may not mount a tmpfs; run as root")
        return disks.run(work, stages(work))
    if part == "interrupts":
        return interrupts.run(work, seed=flags.seed)
    if part == "fuzz":
        (work / "fuzz").mkdir(exist_ok=True)
        return iter(fuzz.run(flags.mutations, flags.seed, "", failures=work / "fuzz"))
    return iter([memory.many_classes(work) if part == "classes" else memory.day(work)])


def _file(part):
    return HERE / f"{part}.csv"


def _with_context(rows):
    """Yields rows with where and when they were measured, and prints them."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    context = {
        "device": f"{os.cpu_count()} cores, {platform.machine()}",
        "date": datetime.date.today().isoformat(),
        "commit": commit,
    }
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""), flush=True)
        yield row | context


def _write(part, rows):
    """Writes the rows of a part; those that are there already in case it is stopped."""
    done = []
    temporary = _file(part).with_suffix(".part")
    for row in rows:
        done.append(row)
        columns = list(dict.fromkeys(name for row in done for name in row))
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(done)
    temporary.replace(_file(part))


def _read(part):
    return read_rows(_file(part))


def write_table():
    """Rewrites the table of README.md from the CSV files."""
    lines = ["| what | how often | right | worst | measured |", "|---|---|---|---|---|"]
    for part in PARTS:
        rows = _read(part)
        if not rows:
            lines.append(f"| {part} | | not run | | |")
            continue
        lines += _SUMMARIES[part](rows, f"{rows[0]['date']}, {rows[0]['commit']}")
    readme = HERE / "README.md"
    text = readme.read_text()
    begin = text.index("<!-- table -->")
    end = text.index("<!-- end -->")
    readme.write_text(text[:begin] + "<!-- table -->\n" + "\n".join(lines) + "\n" + text[end:])


def _right(rows):
    return sum(row["ok"] == "True" for row in rows)


def _first_problem(rows):
    return next((row["problem"][:120] for row in rows if row.get("problem")), "")


def _kills_table(rows, _):
    lines = []
    for name in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == name]
        measured = f"{mine[0]['date']}, {mine[0]['commit']}"
        count = sum(int(row["kills"]) for row in mine)
        right = f"{_right(mine)} of {len(mine)} directories"
        lines.append(
            f"| SIGKILL: {name} | {count} kills | {right} | {_first_problem(mine)} | {measured} |"
        )
    return lines


def _disks_table(rows, measured):
    lines = []
    for name, unit in dict.fromkeys((row["stage"], row["unit"]) for row in rows):
        mine = [row for row in rows if (row["stage"], row["unit"]) == (name, unit)]
        failed = sum(row["exit"] != "0" for row in mine)
        slowest = max(float(row["seconds"]) for row in mine)
        lines.append(
            f"| full disk, {unit}: {name} | {len(mine)} limits, {failed} too small "
            f"| {_right(mine)} of {len(mine)} "
            f"| {_first_problem(mine) or f'{slowest:.0f} s to the end'} | {measured} |"
        )
    return lines


def _interrupts_table(rows, measured):
    lines = []
    for name in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == name and row.get("exit")]
        ends = [row for row in rows if row["run"] == name and not row.get("exit")]
        slowest = max(float(row["seconds_to_exit"]) for row in mine)
        step = mine[0]["seconds_of_a_step"]
        right = (
            f"{_right(mine)} with exit 0 in time; same bits in {_right(ends)} of {len(ends)} runs"
        )
        lines.append(
            f"| SIGTERM, SIGINT: {name} | {len(mine)} signals | {right} "
            f"| {_first_problem(mine + ends) or f'{slowest:.1f} s; a step takes {step} s'} "
            f"| {measured} |"
        )
    return lines


def _fuzz_table(rows, measured):
    total = sum(int(row["mutations"]) for row in rows)
    failures = sum(int(row[kind]) for row in rows for kind in ("failed", "hung", "died"))
    least = min(int(row["mutations"]) for row in rows)
    return [
        f"| damaged files: {len(rows)} parsers | {total:,} mutations, at least {least:,} each "
        f"| {total - failures:,} | {failures} failures | {measured} |"
    ]


def _memory_table(rows, measured):
    row = rows[0]
    if row.get("result_json_mb"):
        worst = f"peak {row['peak_mib']} MiB, result.json {row['result_json_mb']} MB"
    else:
        worst = f"{row['second_quarter_mib']} MiB in the second quarter, "
        worst += f"{row['last_quarter_mib']} in the last"
    verdict = "yes" if row["ok"] == "True" else "no"
    return [f"| memory: {row['what']} | 1 | {verdict} | {worst} | {measured} |"]


_SUMMARIES = {
    "kills": _kills_table,
    "disks": _disks_table,
    "interrupts": _interrupts_table,
    "fuzz": _fuzz_table,
    "classes": _memory_table,
    "day": _memory_table,
}


if __name__ == "__main__":
    main()
