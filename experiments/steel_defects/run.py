"""The inspection case: from annotated pictures of steel to a service that is watched.

    python -m experiments.steel_defects.run neu_det.tar             # under an hour on two cores
    python -m experiments.steel_defects.run neu_det.tar --record    # writes the README's tables
    python -m experiments.steel_defects.run neu_det.tar --size smoke --workdir runs/smoke

Each stage is the command that a user would give, and is printed as such; a finished one is not
repeated. Ends with WORKDIR/report.html, on which every number comes from the stages' own files; if
a stage fails, the page has those before it, and the same call goes on with that stage.
"""

import argparse
import pathlib
from typing import Any

from experiments.steel_defects.case import SIZES, STAGES, Case
from experiments.steel_defects.page import record, write
from vision import cli
from vision.errors import UserError


def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("tar", type=pathlib.Path)
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/steel_defects"))
    p.add_argument("--size", choices=sorted(SIZES), default="full")
    p.add_argument("--record", action="store_true", help="write the README's tables")
    a = p.parse_args(argv)
    if a.record and a.size != "full":
        raise UserError(f"--record needs --size full, got {a.size}: the README has its numbers")
    case = Case(a.tar, a.workdir, SIZES[a.size])
    case.begin()
    results: dict[str, Any] = {}
    for name in STAGES:
        try:
            results[name] = case.stage(name, getattr(case, name))
        except Exception as error:
            if results:
                write(case, results, f"The stage {name} has failed: {error}")
            raise
    write(case, results)
    if a.record:
        record(case, results)
    print(f"{a.workdir / 'report.html'}: {sum(case.minutes[name] for name in STAGES):.0f} minutes")


if __name__ == "__main__":
    cli.run(main)
