"""The models that are served: which versions are loaded, and which of them answers a request.

DIR/<model>/<version>/ holds a bundle each. Whatever is added, changed or removed there takes effect
without a restart:

                                     .-------- operator loads -------- UNLOADED
                                     v                                    ^ operator unloads
    scan finds it    scan: complete           opens and runs              |
    -------> WAITING ------------> LOADING -----------------------------> READY --.
                                   ^     |                                ^       |
            scan: files changed,   |     | cannot be loaded               '-------'
            or operator loads      |     v                          scan: files changed
                                   REFUSED

    any state -- scan: the folder is gone --> removed, once it has answered its requests

    from      to         who moves it
    (none)    WAITING    a scan that sees the folder for the first time
    WAITING   LOADING    a scan: bundle.json is there, and two scans in a row saw the same files
    LOADING   READY      loader.py: the bundle was opened and run (`open_warm` of loaded.py)
    LOADING   REFUSED    loader.py: it cannot be loaded; tried again once its files change
    REFUSED   LOADING    a scan that sees other files; or `load`
    READY     READY      a scan that sees other files: the loaded version answers until the new one
                         is ready, and keeps answering if that one cannot be loaded
    READY     UNLOADED   `unload`; scans leave it alone then
    UNLOADED  LOADING    `load`

For `start` one scan is enough. A scan only looks (scan.py); `Repository` moves the `VersionState`s
(state.py); a `LoadedVersion` answers (loaded.py); traffic.py chooses among those. `roll_back`
changes no state: it takes requests from versions, which stay READY.
"""

import asyncio
import logging
import time
from typing import Any

from vision.errors import UserError
from vision.serving.errors import NotFound, Refused, Unavailable
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models import traffic
from vision.serving.models.loaded import LoadedVersion
from vision.serving.models.loader import Loader
from vision.serving.models.scan import MISSING
from vision.serving.models.state import (
    LOADING,
    READY,
    REFUSED,
    UNLOADED,
    WAITING,
    ModelState,
    VersionState,
)
from vision.serving.settings import Settings

log = logging.getLogger(__name__)


class Repository:
    """The models of a directory. Made and used in one event loop.

    Args:
        settings: the server's settings.
        telemetry: counts the batches of the versions.

    Attributes:
        left_out: why directories were left out at the last scan.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry):
        self._settings = settings
        self._telemetry = telemetry
        self._loader = Loader(settings)
        self._models: dict[str, ModelState] = {}
        self._started = False
        self._draining = False
        self._closed = False
        self._changes = asyncio.Lock()  # one task at a time changes what is loaded
        self._leaving: set[asyncio.Task] = set()  # retiring versions answer their last requests
        self.left_out: list[str] = []
        self._unreadable: str | None = None  # why the directory cannot be read

    @property
    def ready(self) -> bool:
        """Whether to send requests: it has started, will not stop soon, and a version is loaded."""
        return (
            self._started
            and not self._draining
            and not self._closed
            and any(model.loaded() for model in self._models.values())
        )

    async def start(self) -> None:
        """Loads everything; raises `UserError` if the directory cannot be read."""
        try:
            await self._update(settled=True)
        except OSError as error:
            raise UserError(
                f"--models {self._settings.models} cannot be read: {error.strerror}"
            ) from error
        self._started = True

    async def watch(self) -> None:
        """Follows the directory until canceled or the repository is closed; run it as a task."""
        while not self._closed:
            try:
                await self._update()
            except OSError as error:  # what is loaded stays
                if error.strerror != self._unreadable:
                    log.warning(
                        "the models' directory cannot be read: %s; loaded versions keep answering",
                        error.strerror,
                    )
                self._unreadable = error.strerror
            except Exception:
                log.exception("the models' directory could not be scanned")
            await asyncio.sleep(self._settings.poll)

    def drain(self) -> None:
        """Becomes not ready, so that requests go elsewhere; those that come are still answered."""
        self._draining = True

    async def close(self) -> None:
        """Takes no more requests, answers those in progress, and unloads everything."""
        self._closed = True
        async with self._changes:
            for model in self._models.values():
                for version in model.versions.values():
                    self._retire(version)
        await asyncio.gather(*self._leaving)

    def pick(
        self, model: str, version: str = "", key: str = ""
    ) -> tuple[LoadedVersion, LoadedVersion | None]:
        """Returns the version that answers a request, and the one that answers for the log only.

        Args:
            model: the model's name.
            version: the version that the request asks for; "" lets traffic.json decide.
            key: requests with the same key get the same version; "" draws anew for each.

        Returns:
            The version, and its shadow or None.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is being loaded, or the server stops.
        """
        state = self._find(model)
        if version:
            return self._find_loaded(model, version), None
        name = state.traffic.choose(state.eligible(), key)
        if name is None:
            raise self._nothing_loaded(model)
        shadow = None
        if state.traffic.shadow != name and state.traffic.shadow in state.versions:
            shadow = state.versions[state.traffic.shadow].loaded
        return state.versions[name].loaded, shadow

    def get(self, model: str, version: str = "") -> LoadedVersion:
        """Returns a version to describe; "" is the one with most requests. Raises as `pick`."""
        state = self._find(model)
        if version:
            return self._find_loaded(model, version)
        name = state.traffic.main(state.eligible())
        if name is None:
            raise self._nothing_loaded(model)
        return state.versions[name].loaded

    def models(self) -> dict[str, list[str]]:
        """Returns {model: [names of its loaded versions, the highest last]}, without empty ones."""
        loaded = {name: model.loaded() for name, model in sorted(self._models.items())}
        return {name: versions for name, versions in loaded.items() if versions}

    def states(self) -> dict[str, dict[str, Any]]:
        """Returns what an operator wants to know.

        Returns:
            {model: {"serving": the version with most of the requests, "" if none, "weights",
            "shadow": those of the last valid traffic.json, "reason": what is wrong with the current
            one or why the directory cannot be read, "rolled_back": [versions], "versions":
            {version: {"state": "ready", "loading", "waiting", "refused" or "unloaded",
            "reason"}}}}.
        """
        return {name: model.describe() for name, model in sorted(self._models.items())}

    async def load(self, model: str, version: str) -> None:
        """Loads a version now, even if it was refused, unloaded or rolled back, or has changed.

        Raises:
            NotFound: there is no such directory.
            Refused: it cannot be loaded; the message has the reason.
            Unavailable: the server stops.
        """
        async with self._changes:
            self._check_open()
            folders, _ = await self._loader.scan()
            folder = folders.get(model, MISSING).versions.get(version)
            if folder is None:
                raise NotFound(f"there is no version {version[:64]!r} of model {model[:64]!r}")
            model_state = self._models.setdefault(model, ModelState())
            state = model_state.versions.setdefault(version, VersionState())
            state.unloaded_by_operator = False
            state.folder = folder
            is_current = folder.fingerprint == state.tried_fingerprint
            if not state.loaded or state.reason or not is_current:
                await self._load(model, version, state, folder)
            if state.reason:
                raise Refused(f"version {version} of {model} cannot be loaded: {state.reason}")
            model_state.rolled_back.discard(version)

    async def unload(self, model: str, version: str) -> None:
        """Unloads a version, once it has answered its requests.

        It stays unloaded until it is loaded by name or the server restarts.

        Raises:
            NotFound, Unavailable: as `pick`.
        """
        async with self._changes:
            self._find_loaded(model, version)
            state = self._models[model].versions[version]
            state.unloaded_by_operator = True
            state.state = UNLOADED
            state.reason = ""
            leaving = self._retire(state)
        log.info("%s %s: unloaded", model, version)
        await asyncio.shield(leaving)

    async def roll_back(self, model: str) -> str:
        """Takes the requests from the highest version that has any.

        They go to the other versions that have weights, or to the previous one. The version itself
        gets only the requests that name it, until it is loaded by name, traffic.json changes or the
        server restarts. It takes effect at once, even while another version is being loaded.

        Returns:
            The version that now has most of the requests.

        Raises:
            NotFound, Unavailable: as `pick`.
            Refused: there is no version before it.
        """
        self.get(model)
        state = self._models[model]
        current = state.traffic.serving(state.eligible())[-1]
        limit = traffic.order(current)
        if not any(traffic.order(name) < limit for name in state.eligible()):
            raise Refused(f"model {model} has no loaded version before {current}")
        state.rolled_back |= {name for name in state.loaded() if traffic.order(name) >= limit}
        log.info("%s %s: rolled back", model, current)
        return self.get(model).name

    def _find(self, model):
        self._check_open()
        if model not in self._models:
            raise NotFound(f"there is no model {model[:64]!r}")
        return self._models[model]

    def _find_loaded(self, model, version):
        state = self._find(model).versions.get(version)
        if state is None or not (state.loaded or state.state in (LOADING, WAITING)):
            raise NotFound(f"model {model} has no loaded version {version[:64]!r}")
        if not state.loaded:
            raise Unavailable(
                f"version {version} of {model} is not loaded yet: try again later",
                self._settings.poll,
            )
        return state.loaded

    def _nothing_loaded(self, model):
        return Unavailable(
            f"model {model} has no loaded version: try again later", self._settings.poll
        )

    def _check_open(self):
        if self._closed:
            raise Unavailable("the server is stopping", 1.0)

    async def _update(self, settled=False):
        """Scans the directory and moves the versions accordingly.

        A version is loaded or dropped only once two scans have seen the same files, so that one
        that is just being written or replaced is left alone; with `settled` one scan is enough.
        """
        async with self._changes:
            if self._closed:
                return
            folders, left_out = await self._loader.scan()
            for reason in left_out:
                if reason not in self.left_out:
                    log.warning("%s", reason)
            self.left_out = left_out
            self._unreadable = None
            for name in sorted(folders.keys() | self._models.keys()):
                model = self._models.setdefault(name, ModelState())
                await self._update_model(name, model, folders.get(name, MISSING), settled)
                if self._closed:
                    return
                if name not in folders and not model.versions:
                    del self._models[name]

    async def _update_model(self, name, model, folder, settled):
        """Moves a model's versions after a scan."""
        fault = folder.fault or folder.traffic_fault
        if fault and fault != model.fault:
            log.warning("%s: %s; the previous state is kept", name, fault)
        model.fault = fault
        if folder.fault:  # what is loaded stays
            return
        if folder is not MISSING and not folder.traffic_fault:
            self._update_traffic(name, model, folder.traffic_data)
        versions = model.versions.keys() | folder.versions.keys()
        # the highest is needed first
        for version in sorted(versions, key=traffic.order, reverse=True):
            await self._update_version(name, version, model, folder.versions.get(version), settled)
            if self._closed:
                return
        missing = model.find_missing_versions()
        if missing and missing != model.missing_versions:
            log.warning("%s: %s", name, missing)
        model.missing_versions = missing

    async def _update_version(self, name, version, model, folder, settled):
        """Moves a version after a scan, which saw `folder`; None if it was gone."""
        state = model.versions.setdefault(version, VersionState())
        settled = settled or folder == state.folder
        state.folder = folder
        if not settled:
            return
        if folder is None:
            if state.loaded:
                log.info("%s %s: gone, unloaded", name, version)
            self._retire(state)
            del model.versions[version]
            model.rolled_back.discard(version)
        elif not state.unloaded_by_operator and folder.fingerprint != state.tried_fingerprint:
            await self._load(name, version, state, folder)

    async def _load(self, name, version, state, folder):
        """Loads a version; the one loaded so far answers until then, and afterwards if that
        fails."""
        state.tried_fingerprint = None  # if the caller is canceled meanwhile, the watch tries again
        if folder.incomplete and not folder.fault:
            if state.reason != folder.incomplete:
                log.info("%s %s: %s", name, version, folder.incomplete)
            if not state.loaded:
                state.state = WAITING
            state.reason = folder.incomplete
            return
        if not state.loaded:
            state.state = LOADING
            state.reason = ""
        begun = time.perf_counter()
        opened = None
        reason = folder.fault
        if not reason:
            opened, reason = await self._loader.open(name, version)
        state.tried_fingerprint = folder.fingerprint
        state.reason = reason
        if opened is None:
            state.state = READY if state.loaded else REFUSED
            log.warning("%s %s: refused: %s", name, version, reason)
            return
        bundle, settings = opened
        self._retire(state)
        state.loaded = LoadedVersion(name, version, bundle, settings, self._telemetry)
        state.state = READY
        took = time.perf_counter() - begun
        log.info(
            "%s %s: loaded in %.1f s; batches of up to %d", name, version, took, settings.max_batch
        )

    def _update_traffic(self, name, model, data):
        """Applies a changed traffic.json; one that is not valid leaves things as they are."""
        if data == model.traffic_data:
            return
        model.traffic_data = data
        model.traffic_reason = ""
        try:
            model.traffic = traffic.Traffic() if data is None else traffic.parse(data)
            model.rolled_back.clear()
        except UserError as error:
            model.traffic_reason = f"{traffic.FILE}: {error}"
            if model.traffic == traffic.Traffic():
                consequence = "the highest version answers"
            else:
                consequence = "the previous one stays in force"
            log.warning("%s: %s; %s", name, model.traffic_reason, consequence)

    def _retire(self, state):
        """Unloads a version once it has answered; returns the task, or None if it is not loaded."""
        if state.loaded is None:
            return None
        task = asyncio.get_running_loop().create_task(state.loaded.retire())
        state.loaded = None
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task
