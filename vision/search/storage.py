"""Where a study lives: a journal file, Optuna's gRPC proxy, or a database."""

import contextlib
import fcntl
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from vision.errors import LONGEST_REASON, RunError, UserError, brief, check_count, printable
from vision.support import signals
from vision.support.extras import require
from vision.support.lock import UNSUPPORTED, InUse, locked

JOURNAL = "journal.log"  # the default, in --out
GRPC_PORT = 13000
ANSWER = 10.0  # seconds within which a proxy must answer at first
ATTEMPTS = 5  # to open a new database in which several workers make the tables at once
PATIENCE = 300.0  # seconds for which a worker waits for a storage that has gone away
DRIVERS = {"postgresql": ("psycopg2", "psycopg2-binary"), "mysql": ("pymysql", "pymysql")}
FORMS = (
    "journal:FILE, grpc://HOST:PORT, postgresql://USER:PASSWORD@HOST/DATABASE or, for one worker, "
    "sqlite:///FILE"
)
SECRET = r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)[^&]*"  # a key of a URL's query, and its =
Answer = TypeVar("Answer")


def open_storage(url: str, out: pathlib.Path, workers: int = 1) -> BaseStorage:
    """Opens a study's storage.

    Args:
        url: see `FORMS`; "" is a journal in `out`.
        out: the study's directory.
        workers: processes that are about to use it.

    Raises:
        UserError: it cannot be reached, or cannot serve so many.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kind, _, rest = url.partition(":")
    if not url or kind == "journal":
        return _open_journal(pathlib.Path(rest or out / JOURNAL))
    if kind == "grpc":
        return _open_proxy(url)
    if kind.startswith("sqlite") and workers > 1:
        raise UserError(
            f"--storage {hidden(url)}: SQLite cannot serve {workers} workers, it would lose "
            "trials: leave --storage out, or serve it with python -m vision.search.serve"
        )
    return open_database(url)


def open_database(url: str) -> BaseStorage:
    """Opens a database by SQLAlchemy's URL; raises `UserError` if it cannot be reached."""
    kind = re.split(r"[:+]", url)[0]
    if "://" not in url or kind not in ("sqlite", *DRIVERS):
        raise UserError(f"--storage {hidden(url)} is unknown: give {FORMS}")
    if kind in DRIVERS and "+" not in url.partition(":")[0]:
        driver, package = DRIVERS[kind]
        require(f"--storage {hidden(url)}", only=(package,))
        url = url.replace(f"{kind}:", f"{kind}+{driver}:", 1)
    for attempt in range(ATTEMPTS):
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:  # SQLAlchemy's and the driver's own types
            # Another worker was making the tables at the same moment.
            made = re.search("already exists|duplicate key", str(error))
            if not made or attempt == ATTEMPTS - 1:
                raise UserError(f"cannot open --storage {hidden(url)}: {_why(error)}") from error
        time.sleep(1)
    raise AssertionError


@contextlib.contextmanager
def sole_user(url: str) -> Iterator[None]:
    """Keeps other processes from an SQLite file during the block; other storages take several.

    Args:
        url: see `FORMS`.

    Raises:
        UserError: another process uses the file.
    """
    path = _sqlite_file(url)
    with contextlib.ExitStack() as stack:
        if path is not None:
            try:
                stack.enter_context(locked(path.parent, "--storage", f".{path.name}.lock"))
            except InUse as error:
                raise UserError(
                    f"--storage {hidden(url)} is in use by another process, and SQLite serves only "
                    "one.\nLeave --storage out, or serve the file with python -m "
                    "vision.search.serve"
                ) from error
        yield


def _sqlite_file(url: str) -> pathlib.Path | None:
    """Returns the file of an SQLite URL; None for other storages, and for one in memory."""
    if not url.startswith("sqlite"):
        return None
    import sqlalchemy

    try:
        database = sqlalchemy.make_url(url).database
    except (sqlalchemy.exc.ArgumentError, ValueError):  # opening it says what is wrong
        return None
    if not database or database == ":memory:":
        return None
    path = pathlib.Path(database.removeprefix("file:")).resolve()
    return path if path.parent.is_dir() else None  # SQLite makes no directory


def _open_proxy(url: str) -> BaseStorage:
    match = re.fullmatch(r"grpc://([^:/]+|\[[^\]]+\])(?::(\d+))?/?", url)
    if not match:
        raise UserError(f"--storage {hidden(url)}: the form is grpc://HOST:PORT")
    host = match.group(1)
    port = int(match.group(2) or GRPC_PORT)
    check_count("the port of --storage", port, 1, 65535)
    with _quiet():
        storage = GrpcStorageProxy(host=host, port=port)
        try:
            storage.wait_server_ready(timeout=ANSWER)
        except ConnectionError as error:
            raise UserError(
                f"cannot reach --storage {hidden(url)}: nothing answers; start "
                f"python -m vision.search.serve --storage URL --port {port} there"
            ) from error
    return storage


def _open_journal(path: pathlib.Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _JournalLock(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise UserError(f"cannot open --storage {path}: {brief(error)}") from error
    except ValueError as error:  # json.JSONDecodeError too
        raise UserError(
            f"--storage {path} is not an Optuna journal ({brief(error)}): name another file"
        ) from error


class _JournalLock(JournalFileOpenLock):
    """The kernel's lock on a file beside the journal: it ends with a process that is killed.

    Optuna's own locks stay behind then, and all others wait for half a minute. A line that a killed
    process has not finished is removed, since no one could read the journal afterwards. On a file
    system without locks Optuna's own takes its place.
    """

    def __init__(self, path: pathlib.Path):
        super().__init__(str(path))
        self._journal = path
        self._path = path.with_name(f".{path.name}.kernel-lock")
        self._handle: int | None = None
        self._is_other = False

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._is_other = super().acquire()
        self._repair()
        return True

    def release(self) -> None:
        """Lets the next process in."""
        if self._is_other:
            super().release()
            self._is_other = False
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _repair(self) -> None:
        with open(self._journal, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if not size:
                return
            file.seek(size - 1)
            if file.read(1) == b"\n":
                return
            start = max(0, size - (1 << 20))
            file.seek(start)
            file.truncate(start + file.read().rfind(b"\n") + 1)


class StorageGone(RunError):
    """A study's storage has not answered for long: no trial's fault."""


def is_unreachable(error: BaseException) -> bool:
    """Returns whether an error says that a storage has gone away, perhaps for a while."""
    name = f"{type(error).__module__}.{type(error).__name__}"
    if name.startswith("grpc.") or isinstance(error, ConnectionError):
        return True
    database = ("OperationalError", "InterfaceError", "StorageInternalError")
    return name.startswith(("sqlalchemy.", "optuna.")) and name.endswith(database)


def patiently(call: Callable[[], Answer], patience: float = PATIENCE) -> Answer:
    """Returns what a call of the storage does, and tries again while it cannot be reached.

    Raises:
        StorageGone: it stays unreachable for `patience` seconds, or until a signal comes.
    """
    began = time.monotonic()
    pause = 0.5
    while True:
        try:
            return call()
        except Exception as error:
            if not is_unreachable(error):
                raise
            waited = time.monotonic() - began
            if waited > patience or signals.received():
                raise StorageGone(
                    f"--storage has not answered for {waited:.0f} s ({_why(error)}): once it does, "
                    "run the same command to continue"
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def _why(error: BaseException) -> str:
    """Returns the words of an error: gRPC's, whose text is a table, or the database's."""
    details = getattr(error, "details", None)
    if not callable(details):
        return re.sub(r"^\(.*?\)\s*", "", brief(error))
    return printable(str(details()), LONGEST_REASON)


def reopen_storage(url: str, out: pathlib.Path) -> BaseStorage:
    """Opens a storage that the search has used already, and waits for one that has gone away.

    Args:
        url, out: see `open_storage`.

    Raises:
        UserError: it cannot be opened.
        StorageGone: it stays unreachable.
    """

    def attempt() -> BaseStorage:
        try:
            return open_storage(url, out)
        except UserError as error:
            if error.__cause__ is not None and is_unreachable(error.__cause__):
                raise error.__cause__ from None
            raise

    return patiently(attempt)


def remembering(call: Callable[[], Answer]) -> Callable[[], Answer]:
    """Returns a function that gives a call's last answer while the storage cannot be reached."""
    answer = patiently(call)

    def ask() -> Answer:
        nonlocal answer
        try:
            answer = call()
        except Exception as error:
            if not is_unreachable(error):
                raise
        return answer

    return ask


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises `StorageGone` for an error of a storage that nobody has waited for."""
    try:
        yield
    except Exception as error:
        # A bare ConnectionError may be that of a source of images.
        if not is_unreachable(error) or isinstance(error, OSError):
            raise
        raise StorageGone(
            f"--storage cannot be reached ({_why(error)}): once it can, run the same command to "
            "continue"
        ) from error


def hidden(url: str) -> str:
    """Returns a URL as it may be shown and written down: without its passwords.

    They come before an @, which a password may have too, or in the query, as of PostgreSQL's
    `?user=me&password=secret`.
    """
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(SECRET, r"\1***", url, flags=re.IGNORECASE)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Optuna's note that the proxy's interface may change."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def run_proxy(storage: BaseStorage, host: str, port: int, threads: int) -> Any:
    """Serves a storage until the process ends."""
    from concurrent.futures import ThreadPoolExecutor

    with _quiet():
        optuna.storages.run_grpc_proxy_server(
            storage, host=host, port=port, thread_pool=ThreadPoolExecutor(threads)
        )
