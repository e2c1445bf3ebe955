"""The models that are served: which versions are loaded, and which of them answers a request.

DIR/<model>/<version>/ is a bundle each. What comes, changes or goes there is followed without a
restart: a version takes requests once it is loaded and warm, and one that goes answers what it has
begun. A bundle that cannot be loaded is refused, and not tried again before its files change; what
was loaded under its name serves on.
"""

import asyncio
import concurrent.futures
import logging
import os
import pathlib
import threading
import time

from vision.errors import UserError, first_line
from vision.serving.errors import NotFound, Refused, Unavailable
from vision.serving.models import traffic
from vision.serving.models.shelf import GONE, look
from vision.serving.models.state import LOADING, READY, REFUSED, UNLOADED, WAITING, Known, Model
from vision.serving.models.version import Version, open_warm

log = logging.getLogger(__name__)


class Repository:
    """The models of a directory. Made and used in one event loop.

    Args:
        settings: `vision.serving.settings.Settings`.
        telemetry: `vision.serving.logs.telemetry.Telemetry`.

    Attributes:
        left_out: why directories were left out at the last look, a list.
    """

    def __init__(self, settings, telemetry):
        self._settings = settings
        self._telemetry = telemetry
        # a link is followed anew by each look: releases are swapped so
        self._root = os.path.abspath(settings.models)
        self._models = {}
        self._started = self._draining = self._closed = False
        self._changes = asyncio.Lock()  # one at a time changes what is loaded
        self._leaving = set()  # tasks of versions that answer their last requests
        self._loading = threading.Lock()  # one at a time
        # why the directory cannot be read
        self.left_out = []
        self._unread = ""

    @property
    def ready(self):
        """Whether it is to be sent requests: it has started, will not stop soon, and there is a
        version to answer."""
        return (
            self._started
            and not self._draining
            and not self._closed
            and any(model.loaded() for model in self._models.values())
        )

    async def start(self):
        """Loads all that is there; raises `UserError` where the directory cannot be read."""
        try:
            await self._follow(settled=True)
        except OSError as error:
            raise UserError(
                f"--models {self._settings.models} cannot be read: {error.strerror}"
            ) from error
        self._started = True

    async def watch(self):
        """Follows the directory until it is canceled or the repository is closed; to be run as a
        task."""
        while not self._closed:
            try:
                await self._follow()
            except OSError as error:  # what is loaded stays
                if error.strerror != self._unread:
                    log.warning(
                        "the models' directory cannot be read: %s; what is loaded stays",
                        error.strerror,
                    )
                self._unread = error.strerror
            except Exception:
                log.exception("the models' directory cannot be followed")
            await asyncio.sleep(self._settings.poll)

    def drain(self):
        """Is no longer ready, so that requests are sent elsewhere; those that come are answered
        until `close`."""
        self._draining = True

    async def close(self):
        """Takes no more requests, answers those that there are, and unloads everything."""
        self._closed = True
        async with self._changes:
            for model in self._models.values():
                for known in model.known.values():
                    self._retire(known)
        await asyncio.gather(*self._leaving)

    def pick(self, model, version="", key=""):
        """Returns which version answers a request, and which one answers it for the log alone, or
        None.

        Args:
            model: its name.
            version: that the request asks for; "" = as traffic.json says.
            key: what the choice is sticky by; "" = each request for itself.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is being loaded, or the server stops.
        """
        found = self._find(model)
        if version:
            return self._named(model, version), None
        name = found.split.choose(found.eligible(), key)
        if name is None:
            raise Unavailable(
                f"model {model} has no version that is loaded: try again later", self._settings.poll
            )
        shadow = found.known.get(found.split.shadow) if found.split.shadow != name else None
        return found.known[name].version, shadow.version if shadow else None

    def get(self, model, version=""):
        """Returns a `Version` to tell about; "" = the one that has most of the requests. Raises as
        `pick`."""
        found = self._find(model)
        if version:
            return self._named(model, version)
        name = found.split.main(found.eligible())
        if name is None:
            raise Unavailable(
                f"model {model} has no version that is loaded: try again later", self._settings.poll
            )
        return found.known[name].version

    def models(self):
        """Returns {model: [names of the versions that answer, the highest last]} of those that have
        one."""
        return {
            name: loaded
            for name, model in sorted(self._models.items())
            if (loaded := model.loaded())
        }

    def states(self):
        """Returns what an operator wants to know.

        Returns:
            {model: {"serving": the version that has most of the requests, "" = none, "weights",
            "shadow": as the last valid traffic.json says, "reason": what is wrong with the present
            one or why the directory cannot be read, "rolled_back": [versions], "versions":
            {version: {"state": "ready", "loading", "waiting", "refused" or "unloaded",
            "reason"}}}}.
        """
        return {name: model.tell() for name, model in sorted(self._models.items())}

    async def load(self, model, version):
        """Loads a version now, whether it was refused, unloaded or rolled back before, or has
        changed.

        Raises:
            NotFound: there is no such directory.
            Refused: it cannot be loaded; says why.
            Unavailable: the server stops.
        """
        async with self._changes:
            self._check_open()
            here = (
                (await self._in_thread(look, self._root))[0].get(model, GONE).versions.get(version)
            )
            if here is None:
                raise NotFound(f"there is no version {version[:64]!r} of a model {model[:64]!r}")
            found = self._models.setdefault(model, Model())
            known = found.known.setdefault(version, Known())
            known.is_held = False
            known.seen = here
            if not known.version or known.reason or here.mark != known.tried:
                await self._load(model, version, known)
            if known.reason:
                raise Refused(f"version {version} of {model} cannot be loaded: {known.reason}")
            found.aside.discard(version)

    async def unload(self, model, version):
        """Unloads a version, once it has answered its requests, until it is loaded by name or the
        server starts again.

        Raises:
            NotFound, Unavailable: as `pick`.
        """
        async with self._changes:
            self._named(model, version)
            known = self._models[model].known[version]
            known.is_held = True
            known.state = UNLOADED
            known.reason = ""
            leaving = self._retire(known)
        log.info("%s %s: unloaded", model, version)
        await asyncio.shield(leaving)

    async def roll_back(self, model):
        """Takes the requests from the highest version that has any, and returns the one that has
        most of them now.

        The requests go to the other versions that have weights, or to the one before. The version
        itself takes only those that name it, until it is loaded by name, traffic.json changes or
        the server starts again. It is done at once, even while another version is being loaded.

        Raises:
            NotFound, Unavailable: as `pick`.
            Refused: there is none before it.
        """
        self.get(model)
        found = self._models[model]
        now = found.split.serving(found.eligible())[-1]
        before = [name for name in found.eligible() if traffic.order(name) < traffic.order(now)]
        if not before:
            raise Refused(f"model {model} has no version before {now} that is loaded")
        found.aside |= {
            name for name in found.loaded() if traffic.order(name) >= traffic.order(now)
        }
        log.info("%s %s: rolled back", model, now)
        return self.get(model).name

    def _find(self, model):
        self._check_open()
        if model not in self._models:
            raise NotFound(f"there is no model {model[:64]!r}")
        return self._models[model]

    def _named(self, model, version):
        known = self._find(model).known.get(version)
        if known is None or not (known.version or known.state in (LOADING, WAITING)):
            raise NotFound(f"model {model} has no version {version[:64]!r} that is loaded")
        if not known.version:
            raise Unavailable(
                f"version {version} of {model} is not loaded yet: try again later",
                self._settings.poll,
            )
        return known.version

    def _check_open(self):
        if self._closed:
            raise Unavailable("the server stops", 1.0)

    def _in_thread(self, function, *arguments):
        """Runs a function in a thread that ends with the process: an executor's is waited for, even
        where it hangs."""
        future = concurrent.futures.Future()

        def work():
            with self._loading:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(function(*arguments))
                    except BaseException as error:
                        future.set_exception(error)

        threading.Thread(target=work, name="loader", daemon=True).start()
        return asyncio.wrap_future(future)

    async def _follow(self, settled=False):
        """Looks at the directory, and does what follows from it.

        A version is loaded or dropped when two looks have found the same of it, so one that is just
        being written or replaced is left alone; with `settled` one look is enough.
        """
        async with self._changes:
            if self._closed:
                return
            shelf, left_out = await self._in_thread(look, self._root)
            for reason in left_out:
                if reason not in self.left_out:
                    log.warning("%s", reason)
            self.left_out = left_out
            self._unread = ""
            for name in sorted(shelf.keys() | self._models.keys()):
                model = self._models.setdefault(name, Model())
                folder = shelf.get(name, GONE)
                fault = folder.fault or folder.unread
                if fault and fault != model.fault:
                    log.warning("%s: %s; what was before goes on", name, fault)
                model.fault = fault
                if folder.fault:  # what is loaded stays
                    continue
                if name in shelf and not folder.unread:
                    self._read_traffic(name, model, folder.traffic)
                versions = model.known.keys() | folder.versions.keys()
                # the highest is wanted first
                for version in sorted(versions, key=traffic.order, reverse=True):
                    await self._compare(name, version, model, folder.versions.get(version), settled)
                    if self._closed:
                        return
                absent = model.absent_versions()
                if absent and absent != model.absent:
                    log.warning("%s: %s", name, absent)
                model.absent = absent
                if name not in shelf and not model.known:
                    del self._models[name]

    async def _compare(self, name, version, model, now, settled):
        """Brings a version in line with what was found of it, a `Listed`; None = nothing."""
        known = model.known.setdefault(version, Known())
        settled = settled or now == known.seen
        known.seen = now
        if not settled:
            return
        if now is None:
            if known.version:
                log.info("%s %s: gone, unloaded", name, version)
            self._retire(known)
            del model.known[version]
            model.aside.discard(version)
        elif not known.is_held and now.mark != known.tried:
            await self._load(name, version, known)

    async def _load(self, name, version, known):
        """Loads a version as it was last seen; what there was of its name serves until then, and on
        if that fails."""
        now = known.seen
        if now.waits and not now.fault:
            if known.reason != now.waits:
                log.info("%s %s: %s", name, version, now.waits)
            if not known.version:
                known.state = WAITING
            known.tried = None
            known.reason = now.waits
            return
        if not known.version:
            known.state = LOADING
            known.reason = ""
        begun = time.perf_counter()
        reason = now.fault
        known.tried = None  # where the caller is canceled meanwhile, the watch does it
        try:
            if not reason:
                folder = pathlib.Path(self._root, name, version)
                bundle, settings = await self._in_thread(open_warm, folder, self._settings)
        except UserError as error:
            reason = " ".join(str(error).split()).replace(self._root + os.sep, "")
        except OSError as error:
            file = (
                os.path.relpath(error.filename, self._root)
                if isinstance(error.filename, str)
                else "a file"
            )
            reason = f"{file} cannot be read: {error.strerror}"
        except Exception as error:  # a model that is bad enough raises what its runtime likes
            reason = first_line(error)
        known.tried = now.mark
        known.reason = reason
        if reason:
            known.state = READY if known.version else REFUSED
            log.warning("%s %s: refused: %s", name, version, reason)
            return
        self._retire(known)
        known.version = Version(name, version, bundle, settings, self._telemetry)
        known.state = READY
        took = time.perf_counter() - begun
        log.info(
            "%s %s: loaded in %.1f s; batches of up to %d", name, version, took, settings.max_batch
        )

    def _read_traffic(self, name, model, data):
        """Takes a traffic.json that has changed; one that is not valid leaves things as they
        are."""
        if data == model.data:
            return
        model.data = data
        model.reason = ""
        try:
            model.split = traffic.Traffic() if data is None else traffic.parse(data)
            model.aside.clear()
        except UserError as error:
            model.reason = f"{traffic.FILE}: {error}"
            goes = (
                "what was before goes on"
                if model.split != traffic.Traffic()
                else "the highest version answers"
            )
            log.warning("%s: %s; %s", name, model.reason, goes)

    def _retire(self, known):
        """Lets a version go once it has answered; returns the task, or None where there is none."""
        if known.version is None:
            return None
        task = asyncio.get_running_loop().create_task(known.version.retire())
        known.version = None
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task
