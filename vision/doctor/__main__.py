"""Reports what works on this machine, and what does not work and why.

    python -m vision.doctor           # versions, devices, extras, caches, disk space
    python -m vision.doctor --json    # the same for programs

The exit code is 0 if training works, else 1. Notes are about things that training does not need.
"""

import json
import sys
from collections.abc import Sequence

from vision import cli
from vision.doctor.checks import BAD, NOTE, OK, Check, examine
from vision.errors import UserError
from vision.stages import as_called

MARKS = {OK: "  ", NOTE: "- ", BAD: "! "}
WORKS = "training works"
FAILS = "training does not work"


def main(argv: Sequence[str]) -> None:
    if {"-h", "--help"} & set(argv):
        print(as_called((__doc__ or "").strip()))
        return
    unknown = [word for word in argv if word != "--json"]
    if unknown:
        raise UserError(f"unexpected argument '{unknown[0]}': the only flag is --json")
    checks = _print_json() if argv else _print_text()
    if any(check.state == BAD for check in checks):
        sys.exit(1)


def _print_json() -> list[Check]:
    checks = list(examine())
    works = all(check.state != BAD for check in checks)
    print(json.dumps({"training_works": works, "checks": [check._asdict() for check in checks]}))
    return checks


def _print_text() -> list[Check]:
    checks: list[Check] = []
    for check in examine():
        if not checks or checks[-1].section != check.section:
            cli.show("", check.section)
        checks.append(check)
        hint = f": {check.remedy}" if check.remedy else ""
        cli.show(f"{MARKS[check.state]}{check.name:<18}{check.text}{hint}")
    bad = [check for check in checks if check.state == BAD]
    notes = sum(check.state == NOTE for check in checks)
    reasons = "; ".join(f"{check.name}: {check.text}" for check in bad)
    cli.show("", f"{f'{FAILS}: {reasons}' if bad else WORKS}; notes (-): {notes}")
    return checks


if __name__ == "__main__":
    cli.run(main)
