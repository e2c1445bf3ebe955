"""Fills the tables of experiments/speed/README.md with the newest rows of the CSV files beside it.

    python -m scripts.bench.page

A table lies between `<!-- NAME -->` and `<!-- end -->`; the text around it is left as it is.
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
    p.add_argument("--folder", default=common.SPEED, help="where the CSV files and README.md are")
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

    file.write_text(
        re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", fill, file.read_text(), flags=re.DOTALL)
    )
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
    "export",
)


def _gpu(csv):
    return _goals(csv, GPU, "gpu")


def _cpu(csv):
    return _goals(csv, CPU, "cpu")


def _goals(csv, suite, name):
    """One line for each row of a suite that compares training speeds, measured or not."""
    lines = []
    for row in suite:
        if row.script not in ("train", "airbench"):
            continue
        found = [r for r in csv[row.script] if r.get("label") == row.label]
        line = {
            "work": row.label,
            "goal": row.goal,
            "measured": "not run",
            "where": "",
            "steps": "",
        }
        if found and row.script == "airbench":
            line |= _airbench(found)
        elif found:
            line |= _measured(found[-1])
        command = f"`./scripts/bench/{name}.sh --only '{row.label}'`"
        lines.append(line | {"command": command})
    return _markdown(lines)


def _measured(row):
    speeds = f"{_n(row['ours_images_per_second'])} images/s"
    if row.get("theirs_images_per_second"):
        speeds = (
            f"**{float(row['ratio']):.2f}**: {speeds} against {_n(row['theirs_images_per_second'])}"
        )
    mfu = f"MFU {100 * float(row['ours_mfu']):.0f} %"
    steps = f"{row['rounds']} × {row['steps']} of {row['batch']}, {row['dtype']}"
    return {
        "measured": f"{speeds}; {mfu}",
        "where": f"{row['device']}, {row['date'][:10]}",
        "steps": steps,
    }


def _airbench(rows):
    rows = [
        row
        for row in rows
        if row["commit"] == rows[-1]["commit"] and row["device"] == rows[-1]["device"]
    ]
    rows = list({row["seed"]: row for row in rows}.values())  # the newest of each seed
    accuracy, seconds = (
        sum(float(row[key]) for row in rows) / len(rows) for key in ("accuracy", "seconds")
    )
    where = f"{rows[-1]['device']}, {rows[-1]['date'][:10]}"
    return {
        "measured": f"{100 * accuracy:.2f} % in {seconds:.2f} s",
        "where": where,
        "steps": f"{len(rows)} runs",
    }


def _startup(csv):
    rows = _newest(csv["startup"], "device", "config", "cache")
    stages = ("before_s", "import_s", "data_s", "build_s", "initialize_s", "compile_s", "step_s")
    columns = {"first_step_s": "first step", "worst_first_step_s": "the worst"} | {
        s: s[:-2] for s in stages
    }
    return _markdown(
        [
            {
                "device": row["device"],
                "config": row["config"],
                "cache": row["cache"],
                "runs": row["runs"],
            }
            | {shown: f"{float(row[name]):.1f}" for name, shown in columns.items()}
            for row in rows
        ]
    )


def _input(csv):
    rows = _newest(csv["input"], "device", "what", "processes")
    return _markdown(
        [
            {"what": row["what"], "device": row["device"], "processes": row["processes"]}
            | {
                "here, images/s": _n(row["ours_images_per_second"]),
                "a core": _n(row["ours_per_core"]),
            }
            | {
                row_name: _n(row[key])
                for row_name, key in (("theirs", "theirs_images_per_second"),)
            }
            | {
                "against": row["against"],
                "ratio": f"{float(row['ratio']):.2f}" if row["ratio"] else "",
            }
            for row in rows
        ]
    )


def _evaluation(csv):
    rows = _newest(csv["evaluation"], "device", "model", "variant", "images")
    return _markdown(
        [
            {
                "device": row["device"],
                "model": f"{row['model']} {row['variant']}, {row['image_size']} px",
            }
            | {
                "dtype": row["dtype"],
                "images": _n(row["images"]),
                "batch": row["batch"],
                "images/s": _n(row["ours_images_per_second"]),
            }
            | {
                "bare pass": _n(row["bare_images_per_second"]),
                "ratio": f"{float(row['ratio']):.2f}",
            }
            | {
                "of the best": f"{float(row['ratio_of_best']):.2f}",
                "metrics, s": f"{float(row['metrics_s']):.1f}",
            }
            for row in rows
        ]
    )


def _export(csv):
    rows = _newest(csv["export"], "device", "model", "batch", "fixed")
    return _markdown(
        [
            {"device": row["device"], "model": row["model"], "batch": row["batch"]}
            | {"exported for": "that batch" if row["fixed"] == "True" else "any batch"}
            | {
                "ONNX Runtime, ms": f"{float(row['onnx_ms']):.1f}",
                "JAX, ms": f"{float(row['jax_ms']):.1f}",
            }
            | {
                "ratio": f"{float(row['ratio']):.2f}",
                "of the best": f"{float(row['ratio_of_best']):.2f}",
            }
            for row in rows
        ]
    )


def _scaling(csv):
    rows = _newest(csv["scaling"], "device", "model", "variant", "batches", "state", "devices")
    return _markdown(
        [
            {
                "device": row["device"],
                "model": f"{row['model']} {row['variant']}",
                "batches": row["batches"],
            }
            | {
                "state": row["state"],
                "devices": row["devices"],
                "images/s": _n(row["images_per_second"]),
            }
            | {
                "efficiency": f"{float(row['efficiency']):.2f}",
                "state, MB": f"{float(row['state_bytes']) / 1e6:,.1f}",
            }
            for row in rows
        ]
    )


def _attention(csv):
    rows = _newest(csv["attention"], "device", "shape", "dtype", "name")
    cases = {}
    for row in rows:
        case = cases.setdefault((row["device"], row["shape"], row["dtype"]), {})
        case[row["name"]] = f"{float(row['ms']):.2f}"
        if row["auto"] == "True":
            case["auto"] = row["name"]
        if row["fastest"] == "True":
            case["fastest"] = row["name"]
    names = ("plain", "xla", "cudnn", "fastest", "auto")
    return _markdown(
        [
            {
                "device": device,
                "batch × tokens × heads × depth": shape.replace("x", " × "),
                "dtype": dtype,
            }
            | {name: case.get(name, "") for name in names}
            for (device, shape, dtype), case in cases.items()
        ]
    )


def _roofline(csv):
    lines = []
    for row in _newest(csv["roofline"], "device", "model", "variant"):
        measured = _step_ms(csv["train"], row)
        best = float(row["roofline_ms"])
        xla = f"{float(row['xla_gflop']):,.0f}" if row["xla_gflop"] else ""
        lines.append(
            {
                "device": row["device"],
                "model": f"{row['model']} {row['variant']}, {row['image_size']} px",
            }
            | {
                "batch": f"{row['batch']}, {row['dtype']}",
                "GFLOP": f"{float(row['train_gflop']):,.0f}",
                "XLA's": xla,
            }
            | {
                "GB": f"{float(row['gbyte']):.2f}",
                "compute, ms": f"{float(row['compute_ms']):,.3g}",
            }
            | {"memory, ms": f"{float(row['memory_ms']):,.3g}", "limit": row["limit"]}
            | {"images/s at most": _n(row["roofline_images_per_second"])}
            | {"measured, ms": f"{measured:,.3g}" if measured else "not run"}
            | {"gap": f"{measured / best:.1f} ×" if measured else ""}
        )
    return _markdown(lines)


def _step_ms(rows, wanted):
    """Returns the newest measured step of the same work on the same device in ms, or None.

    The bare step counts, where the row has it: `theirs` of a comparison of the loop with it.
    """
    same = ("model", "variant", "image_size", "batch", "dtype")
    for row in reversed(rows):
        device = wanted["device"] == row["device"] or (
            wanted["device"] == "H100" and "H100" in row["device"]
        )
        if device and all(row[key] == wanted[key] for key in same) and row["against"] != "loader":
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
    "export": _export,
}


def _newest(rows, *keys):
    """Returns the last row of each combination of the keys' values, in the order of their first."""
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def _markdown(lines):
    if not lines:
        return "not run\n"
    head = f"| {' | '.join(lines[0])} |\n|{'---|' * len(lines[0])}\n"
    return head + "".join(
        f"| {' | '.join(str(value) for value in line.values())} |\n" for line in lines
    )


def _n(value):
    if not value:
        return ""
    return f"{float(value):,.0f}" if float(value) >= 100 else f"{float(value):.3g}"


if __name__ == "__main__":
    cli.run(main)
