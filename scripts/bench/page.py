"""Fills the tables of experiments/speed/README.md with the newest rows of the CSV files beside it.

    python -m scripts.bench.page

A table stands between `<!-- NAME -->` and `<!-- end -->`; the text around it is kept.
"""

import argparse
import pathlib
import re

from scripts.bench import common
from scripts.bench.suite import CPU, GPU
from vision import cli
from vision.errors import UserError


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--folder", default=common.SPEED, help="directory of the CSV files and README.md"
    )
    folder = pathlib.Path(p.parse_args(argv).folder)
    file = folder / "README.md"
    if not file.is_file():
        raise UserError(f"--folder {folder}: has no README.md to fill")
    csv = {name: common.read_rows(folder / f"{name}.csv") for name in SOURCES}
    tables = {name: make(csv) for name, make in TABLES.items()}

    def fill(match):
        name = match.group(1)
        if name not in tables:
            raise UserError(f"{file}: no table '{name}'; there are {', '.join(tables)}")
        return f"<!-- {name} -->\n{tables[name]}<!-- end -->"

    pattern = r"<!-- (\w+) -->\n.*?<!-- end -->"
    file.write_text(re.sub(pattern, fill, file.read_text(), flags=re.DOTALL))
    print(f"{file}: filled")


SOURCES = (
    "train",
    "airbench",
    "startup",
    "input",
    "scaling",
    "attention",
    "roofline",
    "evaluation",
    "inference",
    "objectives",
)
WHOLE_LOOPS = ("loader", "epoch")  # rows of train.csv that time no bare step
COMPARED = ("train", "airbench", "inference")  # scripts whose rows have goals on the page
RIVALS = {"onnx": "ONNX Runtime", "torch": "torch", "compile": "torch.compile"}


def _gpu(csv):
    return _goals(csv, GPU, "gpu")


def _cpu(csv):
    """Returns a table for each machine that has run a row, or one table without measurements."""
    rows = [line for row in CPU if row.script in COMPARED for line in _measured(csv, row)]
    devices = list(dict.fromkeys(line["device"] for line in rows))
    if not devices:
        return _goals(csv, CPU, "cpu")
    tables = []
    for device in devices:
        own = {
            name: [line for line in lines if line.get("device") == device]
            for name, lines in csv.items()
        }
        tables.append(f"### {device}\n\n{_goals(own, CPU, 'cpu')}")
    return "\n".join(tables)


def _measured(csv, row):
    """Returns the measurements of a row of a suite, oldest first."""
    return [line for line in csv[row.script] if line.get("label") == row.label]


def _goals(csv, suite, name):
    """Returns a line for each row of a suite that compares speeds, measured or not."""
    describe = {
        "train": lambda rows: _train(rows[-1]),
        "airbench": _airbench,
        "inference": lambda rows: _inference(rows[-1]),
    }
    lines = []
    for row in suite:
        if row.script not in COMPARED:
            continue
        line = {
            "work": row.label,
            "goal": row.goal,
            "measured": "not run",
            "where": "",
            "steps": "",
        }
        measured = _measured(csv, row)
        if measured:
            last = measured[-1]
            line["where"] = f"{last['device']}, {last['date'][:10]}"
            line |= describe[row.script](measured)
        command = f"`./scripts/bench/{name}.sh --only '{row.label}'`"
        lines.append(line | {"command": command})
    return _markdown(lines)


def _train(row):
    if row["against"] == "epoch":
        return _epoch(row)
    speeds = f"{_number(row['ours_images_per_second'])} images/s"
    if row.get("theirs_images_per_second"):
        theirs = _number(row["theirs_images_per_second"])
        speeds = f"**{_two_digits(row['ratio'])}**: {speeds} against {theirs}"
    mfu = f"MFU {100 * float(row['ours_mfu']):.0f} %"
    return {
        "measured": f"{speeds}; {mfu}",
        "steps": f"{row['rounds']} × {row['steps']} of {row['batch']}, {row['dtype']}",
    }


def _epoch(row):
    ours, theirs = (
        float(row[f"{side}_step_ms"]) * int(row["steps"]) / 1e3 for side in ("ours", "theirs")
    )
    return {
        "measured": f"**{_two_digits(row['ratio'])}**: {ours:,.1f} s against {theirs:,.1f}",
        "steps": f"{row['rounds']} epochs of {_number(row['images'])} images in batches of "
        f"{row['batch']}, and {_number(row['val_images'])} to validate, {row['dtype']}",
    }


def _inference(row):
    ratios = [
        f"**{_two_digits(row[f'ratio_{name}'])}** of {title}"
        for name, title in RIVALS.items()
        if row[f"ratio_{name}"]
    ]
    speed = 1e3 * int(row["batch"]) / float(row["ours_ms"])
    return {
        "measured": f"{', '.join(ratios)}: {_number(speed)} images/s",
        "steps": f"{row['rounds']} rounds, float32",
    }


def _airbench(rows):
    last = rows[-1]
    same_code = [
        row for row in rows if row["commit"] == last["commit"] and row["device"] == last["device"]
    ]
    newest = list({row["seed"]: row for row in same_code}.values())
    accuracy = sum(float(row["accuracy"]) for row in newest) / len(newest)
    seconds = sum(float(row["seconds"]) for row in newest) / len(newest)
    return {
        "measured": f"{100 * accuracy:.2f} % in {seconds:.2f} s",
        "steps": f"{len(newest)} runs",
    }


def _startup(csv):
    stages = ("before_s", "import_s", "data_s", "build_s", "initialize_s", "compile_s", "step_s")
    columns = {"first_step_s": "first step", "worst_first_step_s": "the worst"}
    columns |= {stage: stage.removesuffix("_s") for stage in stages}
    lines = []
    for row in _newest(csv["startup"], "device", "config", "cache"):
        line = {name: row[name] for name in ("device", "config", "cache", "runs")}
        line |= {title: f"{float(row[name]):.1f}" for name, title in columns.items()}
        lines.append(line)
    return _markdown(lines)


def _input(csv):
    return _markdown(
        {
            "what": row["what"],
            "device": row["device"],
            "processes": row["processes"],
            "here, images/s": _number(row["ours_images_per_second"]),
            "a core": _number(row["ours_per_core"]),
            "theirs": _number(row["theirs_images_per_second"]),
            "against": row["against"],
            "ratio": _two_digits(row["ratio"]) if row["ratio"] else "",
        }
        for row in _newest(csv["input"], "device", "what", "processes")
    )


def _evaluation(csv):
    return _markdown(
        {
            "device": row["device"],
            "model": f"{row['model']} {row['variant']}, {row['image_size']} px",
            "dtype": row["dtype"],
            "images": _number(row["images"]),
            "batch": row["batch"],
            "images/s": _number(row["ours_images_per_second"]),
            "bare pass": _number(row["bare_images_per_second"]),
            "ratio": _two_digits(row["ratio"]),
            "of the best": _two_digits(row["ratio_of_best"]),
            "metrics, s": f"{float(row['metrics_s']):.1f}",
        }
        for row in _newest(csv["evaluation"], "device", "model", "variant", "images")
    )


def _objectives(csv):
    return _markdown(
        {
            "device": row["device"],
            "objective": row["objective"],
            "model": row["model"],
            "batch": row["batch"],
            "against": row["against"],
            "step, ms": _number(row["step_ms"]),
            "the other, ms": _number(row["against_ms"]),
            "ratio": _two_digits(row["ratio"]),
            "of the best": _two_digits(row["ratio_of_best"]),
            "rounds": row["rounds"],
        }
        for row in _newest(csv["objectives"], "device", "objective", "model", "batch")
    )


def _answers(csv):
    lines = []
    for row in _newest(csv["inference"], "device", "model", "variant", "batch", "fixed"):
        line = {
            "device": row["device"],
            "model": f"{row['model']} {row['variant']}, {row['image_size']} px",
            "batch": row["batch"],
            "convolutions": row["convolutions"],
            "ours, ms": f"{float(row['ours_ms']):.1f}",
            "exported for": "that batch" if row["fixed"] == "True" else "any batch",
        }
        for name, title in RIVALS.items():
            line[f"{title}, ms"] = f"{float(row[f'{name}_ms']):.1f}" if row[f"{name}_ms"] else ""
            ratio = row[f"ratio_{name}"]
            line[f"ratio to {title}"] = _two_digits(ratio) if ratio else ""
        lines.append(line)
    return _markdown(lines)


def _scaling(csv):
    keys = ("device", "model", "variant", "batches", "state", "devices")
    return _markdown(
        {
            "device": row["device"],
            "model": f"{row['model']} {row['variant']}",
            "batches": row["batches"],
            "state": row["state"],
            "devices": row["devices"],
            "images/s": _number(row["images_per_second"]),
            "efficiency": _two_digits(row["efficiency"]),
            "state, MB": f"{float(row['state_bytes']) / 1e6:,.1f}",
        }
        for row in _newest(csv["scaling"], *keys)
    )


def _attention(csv):
    cases = {}
    for row in _newest(csv["attention"], "device", "shape", "dtype", "name"):
        case = cases.setdefault((row["device"], row["shape"], row["dtype"]), {})
        case[row["name"]] = _two_digits(row["ms"])
        if row["auto"] == "True":
            case["auto"] = row["name"]
        if row["fastest"] == "True":
            case["fastest"] = row["name"]
    lines = []
    for (device, shape, dtype), case in cases.items():
        line = {
            "device": device,
            "batch × tokens × heads × depth": shape.replace("x", " × "),
            "dtype": dtype,
        }
        names = ("plain", "xla", "cudnn", "fastest", "auto")
        lines.append(line | {name: case.get(name, "") for name in names})
    return _markdown(lines)


def _roofline(csv):
    lines = []
    for row in _newest(csv["roofline"], "device", "model", "variant"):
        measured = _step_ms(csv["train"], row)
        gap = measured / float(row["roofline_ms"]) if measured else None
        lines.append(
            {
                "device": row["device"],
                "model": f"{row['model']} {row['variant']}, {row['image_size']} px",
                "batch": f"{row['batch']}, {row['dtype']}",
                "GFLOP": f"{float(row['train_gflop']):,.0f}",
                "XLA's": f"{float(row['xla_gflop']):,.0f}" if row["xla_gflop"] else "",
                "GB": _two_digits(row["gbyte"]),
                "compute, ms": f"{float(row['compute_ms']):,.3g}",
                "memory, ms": f"{float(row['memory_ms']):,.3g}",
                "limit": row["limit"],
                "images/s at most": _number(row["roofline_images_per_second"]),
                "measured, ms": f"{measured:,.3g}" if measured else "not run",
                "gap": f"{gap:.1f} ×" if measured else "",
            }
        )
    return _markdown(lines)


def _step_ms(rows, work):
    """Returns the newest measured step of the same work on the same device in ms, or None.

    If the row compares the loop with the bare step, that is `theirs`, the bare step.
    """
    keys = ("model", "variant", "image_size", "batch", "dtype")
    for row in reversed(rows):
        is_h100 = work["device"] == "H100" and "H100" in row["device"]
        if work["device"] != row["device"] and not is_h100:
            continue
        if all(row[key] == work[key] for key in keys) and row["against"] not in WHOLE_LOOPS:
            return float(row["theirs_step_ms" if row["against"] == "step" else "ours_step_ms"])
    return None


TABLES = {
    "gpu": _gpu,
    "cpu": _cpu,
    "startup": _startup,
    "input": _input,
    "scaling": _scaling,
    "attention": _attention,
    "roofline": _roofline,
    "evaluation": _evaluation,
    "inference": _answers,
    "objectives": _objectives,
}


def _newest(rows, *keys):
    """Returns the last row of each combination of the keys' values, in order of appearance."""
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def _markdown(rows):
    lines = list(rows)
    if not lines:
        return "not run\n"
    head = f"| {' | '.join(lines[0])} |\n|{'---|' * len(lines[0])}\n"
    return head + "".join(
        f"| {' | '.join(str(value) for value in line.values())} |\n" for line in lines
    )


def _two_digits(value):
    return f"{float(value):.2f}"


def _number(value):
    if not value:
        return ""
    return f"{float(value):,.0f}" if float(value) >= 100 else f"{float(value):.3g}"


if __name__ == "__main__":
    cli.run(main)
