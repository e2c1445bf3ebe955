"""Prints the config's keys, each with its default, range and meaning.

python -m vision.config              # all keys
python -m vision.config learning     # keys with this word in their name or meaning
"""

import shutil

from vision import cli
from vision.config.overview import overview
from vision.errors import UserError
from vision.stages import as_called


def main(argv):
    if {"-h", "--help"} & set(argv):
        print(as_called(__doc__.strip()))
        return
    if len(argv) > 1 or any(word.startswith("-") for word in argv):
        raise UserError("give at most one word: python -m vision.config learning")
    width = shutil.get_terminal_size((120, 24)).columns
    print(overview(*argv, width=width))


if __name__ == "__main__":
    cli.run(main)
