"""Learns tasks one after another and reports what was forgotten.

    python -m vision.continual --config configs/split_fashion_mnist.py:class:ewc
    python -m vision.continual --config configs/split_fashion_mnist.py:task:si --workdir runs/split

Each task of config.continual.tasks is a separate run in --workdir (task-1, task-2, ...), which
continues the previous one with config.objective and config.continual. sequence.json, sequence.csv
and sequence.png have the accuracy on each task after each task: over all classes so far or, with
objective.options.within_task, over the classes of each image's own task. After an interruption,
repeat the command to continue.
"""

import contextlib
import pathlib
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse
from vision.config.packages import check_packages
from vision.run.directory import new_workdir
from vision.support.extras import require_stage
from vision.support.lock import locked
from vision.support.memory import keep_freed_memory, use_one_arena


def main(argv: Sequence[str]) -> None:
    config, values = parse(argv, __doc__, _flags)
    require_stage("the figure of the sequence", "continual")
    check_packages(config)
    if config.parallel.keep_memory:
        keep_freed_memory()
    from vision import distributed, parallel
    from vision.continual.sequence import run_sequence

    parallel.keep_programs(config.compile_cache)  # before anything is compiled
    distributed.start(config.parallel)
    # The main process names it, as the default depends on the clock.
    name = parallel.from_main_process(values.workdir or str(new_workdir(argv)))
    workdir = pathlib.Path(name)
    with contextlib.ExitStack() as stack:
        parallel.on_main_process(lambda: stack.enter_context(locked(workdir, "--workdir")))
        run_sequence(config, workdir, f"the same command with --workdir {workdir}")


def _flags(values):
    text = "directory of the tasks' runs; default: a new one under runs/"
    flags.DEFINE_string("workdir", "", text, flag_values=values)


if __name__ == "__main__":
    use_one_arena()  # before the progress of the command starts a thread
    cli.run(main)
