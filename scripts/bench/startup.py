"""Times a fresh process up to the end of its first training step, with and without compile cache.

    python -m scripts.bench.startup
    python -m scripts.bench.startup --config configs/vit_cifar10.py --runs 5

Each run is a separate `python -m vision.main`: one with an empty cache (cold), then one with the
cache that it left (warm). `first_step_s` is `seconds_to_first_step` of its result.json, plus the
time in which Python starts and imports what precedes that clock, measured separately. The stages
come from another process that makes the same calls one by one. Training is cut to a few steps,
which changes nothing before the second one. The last line is `first step: COLD s cold, WARM s warm`
(medians).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from scripts.bench import common
from vision import cli
from vision.config.load import load
from vision.errors import UserError

STEPS = 4


def main(argv):
    p = common.make_parser(__doc__, "startup")
    p.add_argument("--config", default="configs/vit_mnist5k.py", help="as for vision.main")
    p.add_argument("--runs", type=int, default=3, help="number of timings of each")
    p.add_argument("--stages", nargs=1, metavar="CACHE", help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.stages:
        return print(json.dumps(_stages(a.config, a.stages[0])))
    runs = {"cold": [], "warm": []}
    for _ in range(a.runs):
        with tempfile.TemporaryDirectory() as folder:
            for name in runs:
                runs[name].append(_run(a.config, pathlib.Path(folder), name))
    rows = [_row(a, name, timings) for name, timings in runs.items()]
    shown = [
        {key: value for key, value in row.items() if key.endswith("_s") or key == "cache"}
        for row in rows
    ]
    common.print_table(shown)
    common.write_rows(a.csv, rows)
    cold, warm = (row["first_step_s"] for row in rows)
    print(f"first step: {cold:.1f} s cold, {warm:.1f} s warm")


def _row(a, name, runs):
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    worst = {"worst_first_step_s": max(run["first_step_s"] for run in runs)}
    return common.facts(a) | {"config": a.config, "cache": name, "runs": a.runs} | worst | medians


def _run(config, folder, name):
    """Returns the seconds of one process and of its stages."""
    workdir = folder / name
    cache = folder / "cache"
    _python(
        "-m",
        "vision.main",
        "--config",
        config,
        f"--workdir={workdir}",
        f"--config.train.steps={STEPS}",
        "--config.log.progress=False",
        f"--config.compile_cache={cache}",
    )
    result = json.loads((workdir / "result.json").read_text())
    start = time.perf_counter()
    _python("-c", "import vision.main")
    before = time.perf_counter() - start
    # It compiles its programs another way, so it has a cache of its own.
    stages_cache = folder / "stages"
    stages = json.loads(
        _python("-m", "scripts.bench.startup", "--config", config, "--stages", str(stages_cache))
    )
    return {"first_step_s": before + result["seconds_to_first_step"], "before_s": before} | stages


def _python(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=common.ROOT, capture_output=True, text=True
    )
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip()
        raise UserError(f"{' '.join(arguments[:2])} failed: {output}")
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def _stages(spec, cache):
    """Returns the seconds of each stage up to the first step, in this process."""
    marks = [("", time.perf_counter())]

    def mark(name):
        marks.append((name, time.perf_counter()))

    config = load(spec)
    config.train.steps = STEPS
    import jax

    from vision import parallel
    from vision.data.pipeline import open_data
    from vision.training.program import compile_program
    from vision.training.setup import build_step

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    mark("import_s")
    mesh = parallel.make_mesh(config.parallel.devices)
    data = open_data(config, mesh)
    mark("data_s")
    step = build_step(config, data, mesh, STEPS)
    loader = data.loaders["train"]
    mark("build_s")
    state = jax.block_until_ready(step.initialize())
    mark("initialize_s")
    batch = next(loader.train_batches([(0, 1)], config.train.batch_size))
    program = compile_program(step.update, state, batch, loader.data)
    mark("compile_s")
    jax.block_until_ready(program(state, batch, loader.data))
    mark("step_s")
    return {name: now - before for (_, before), (name, now) in zip(marks, marks[1:], strict=False)}


if __name__ == "__main__":
    cli.run(main)
