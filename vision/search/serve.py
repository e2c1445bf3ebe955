"""Serves a study's database to many workers, through Optuna's gRPC proxy.

    python -m vision.search.serve --storage sqlite:///studies.db --port 13000
    python -m vision.search.serve --storage postgresql://me:secret@db/studies --host 0.0.0.0

Workers then use --storage grpc://HOST:13000. The proxy has no passwords and no encryption. By
default, only this machine can reach it; open it with --host 0.0.0.0 inside a network that you
trust. It stops on Ctrl-C or SIGTERM; the contents of the database stay.
"""

import socket
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, brief, check_count
from vision.support import progress
from vision.support.extras import require_stage

THREADS = 10


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    _, values, words = parse_stage(argv, __doc__, _flags)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.storage:
        raise UserError("which database? Give --storage sqlite:///FILE or postgresql://...")
    check_count("--port", values.port, 1, 65535)
    require_stage("the search", "search")
    from vision.search.storage import hidden, open_database, run_proxy, sole_user

    with sole_user(values.storage):
        storage = open_database(values.storage)
        _check_port(values.host, values.port)
        # SQLite: one at a time, so that none finds the file locked.
        threads = 1 if values.storage.startswith("sqlite") else THREADS
        cli.show(f"{hidden(values.storage)} at grpc://{values.host}:{values.port}")
        with progress.quiet():
            run_proxy(storage, values.host, values.port, threads)


def _check_port(host: str, port: int) -> None:
    """Raises `UserError` if nothing can listen there: gRPC itself would share a port in use."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET):
            pass
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {brief(error)}") from error


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("storage", "", "URL of the database", flag_values=values)
    flags.DEFINE_string("host", "localhost", "address to listen on", flag_values=values)
    flags.DEFINE_integer("port", 13000, "port to listen on", flag_values=values)


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
