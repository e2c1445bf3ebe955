"""What a rollout has done, in rollout.json: enough to go on after a kill, and its history."""

import dataclasses
import pathlib
from typing import Any

from vision.errors import UserError
from vision.monitoring.rollout.plan import GUARDS, Plan
from vision.monitoring.rollout.readings import ANSWERED, BUCKET, FAILED, bucket
from vision.monitoring.rollout.rules import Action
from vision.support.files import write_json
from vision.support.reading import read_json
from vision.support.schema import Rule, among, damaged, is_number, numbers_within

FILE = "rollout.json"
FORMAT = 2
RUNNING = "running"
PAUSED = "paused"
ROLLED_BACK = "rolled back"
DONE = "done"
ENDED = "ended"  # key of the time when a window ended, among the features of `Runs`

Counts = dict[str, dict[str, float]]  # {version: counts, see `vision.monitoring.rollout.readings`}
Runs = dict[str, float]  # {feature: windows in a row that alarm}, and when the last one ended


@dataclasses.dataclass
class State:
    """A rollout so far.

    Attributes:
        model, old, new, steps: of the plan.
        fingerprints: {version: SHA-256 of its bundle.json, which has those of its files}.
        status: RUNNING, PAUSED, ROLLED_BACK or DONE.
        reason: of the status, a sentence.
        step: number of the step, from 0; -1 after a rollback.
        weights: what traffic.json is to say.
        before: what it said before, until it was seen to say `weights`; None from then on.
        set_at: when the weights were set, seconds since the epoch.
        begun_at: when the step's first counts were taken; 0 before.
        updated_at: when this was written.
        tallies: counts since the step began.
        latest: {server's URL: its counts when it was last asked}.
        started: {server's URL: when its process started, by its clock}.
        slow: bound above which an answer is slow, seconds; 0 if it is not chosen yet.
        slow_ratio: of the old version's p99, from which that was chosen.
        drift: {server's URL: its runs}; {} before its first window in the step.
        due_at: when the step's window was over, seconds since the epoch; 0 before.
        is_late: whether it was said that the step lasts longer than its window.
        decisions: what was decided: {"time", "step", "weight", "action", "reason", "answers",
            "readings"} each.
    """

    model: str
    old: str
    new: str
    steps: list[float]
    fingerprints: dict[str, str]
    weights: dict[str, float]
    before: dict[str, float] | None
    set_at: float
    status: str = RUNNING
    reason: str = ""
    step: int = 0
    begun_at: float = 0.0
    updated_at: float = 0.0
    tallies: Counts = dataclasses.field(default_factory=dict)
    latest: dict[str, Counts] = dataclasses.field(default_factory=dict)
    started: dict[str, float] = dataclasses.field(default_factory=dict)
    slow: float = 0.0
    slow_ratio: float = 0.0
    drift: dict[str, Runs] = dataclasses.field(default_factory=dict)
    due_at: float = 0.0
    is_late: bool = False
    decisions: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Whether nothing more is decided."""
        return self.status in (ROLLED_BACK, DONE)

    @property
    def weight(self) -> float:
        """The new version's percentage."""
        return self.weights[self.new]

    @property
    def is_last(self) -> bool:
        """Whether the new version has all of the traffic."""
        return self.step == len(self.steps) - 1

    def enter(self, plan: Plan, step: int, now: float) -> None:
        """Begins a step: its weights are to be set, and nothing is counted yet."""
        self.before = dict(self.weights)
        self.weights = plan.weights(step)
        self.step = step
        self.set_at = now
        self.restart()

    def restart(self) -> None:
        """Forgets the step's counts.

        Those of the old version stay in the last step, with what they say is slow: it gets no
        traffic any more, and they are what the new one is compared with.
        """
        self.begun_at = 0.0
        kept = self.tallies.get(self.old, {})
        self.tallies = {self.old: kept} if self.is_last else {}
        if not self.is_last:
            self.slow = 0.0
        self.latest = {}
        self.started = {}
        self.drift = {}
        self.due_at = 0.0
        self.is_late = False

    def accumulate(self, url: str, counts: Counts, started: float) -> None:
        """Adds what a server has counted since it was last asked.

        All counts of a process are from 0, so those of another process than last time count in
        full. So do those of a version if any has become smaller: it was gone meanwhile. A server
        that was not asked before in this step has counts of before the step, which are not added.
        The old version's are frozen in the last step.

        Args:
            url: the server's.
            counts: what it says.
            started: when its process started; 0 if it does not say.
        """
        before = self.latest.get(url)
        is_restarted = started != self.started.get(url, started)
        self.latest[url] = counts
        self.started[url] = started
        if before is None:
            return
        for version, tally in counts.items():
            if version == self.old and self.is_last:
                continue
            past = before.get(version, {})
            if is_restarted or any(tally.get(key, 0.0) < count for key, count in past.items()):
                past = {}
            total = self.tallies.setdefault(version, {})
            for key, count in tally.items():
                total[key] = total.get(key, 0.0) + count - past.get(key, 0.0)

    def note(self, record: dict[str, Any]) -> bool:
        """Adds a decision to the history; returns whether it is another one than the last.

        Of waits in a row for the same step only the last is kept.
        """
        keys = ("step", "action")
        last = self.decisions[-1] if self.decisions else {}
        is_repeated = record["action"] in ("wait", "hold", "pause") and all(
            last.get(key) == record[key] for key in keys
        )
        if is_repeated:
            record = record | {"since": last.get("since", last["time"])}
            self.decisions[-1] = record
        else:
            self.decisions.append(record)
        return not is_repeated


def _is_tally(value):
    """Whether a value is a `vision.monitoring.rollout.readings.Tally`."""
    if not isinstance(value, dict):
        return False
    for key, count in value.items():
        is_bucket = key.startswith(BUCKET) and key == bucket(float(key.removeprefix(BUCKET)))
        if not (is_bucket or key in (ANSWERED, FAILED)) or not is_number(count) or count < 0:
            return False
    return True


TIME = numbers_within(0, 1e11)  # seconds since the epoch, which a date can show
COUNT = numbers_within(0, 1e18)
COUNTS = {str: Rule("counts of answers, failures and buckets", _is_tally)}
READING = {
    "name": among(*GUARDS),
    "old": (float, None),
    "new": (float, None),
    "excess": (float, None),
    "units": COUNT,
    "p": numbers_within(0, 1),
    "note": str,
}
SCHEMA = {
    "format": int,
    "model": str,
    "old": str,
    "new": str,
    "steps": [float],
    "fingerprints": {str: str},
    "weights": {str: float},
    "before": ({str: numbers_within(0, 1e6)}, None),
    "status": among(RUNNING, PAUSED, ROLLED_BACK, DONE),
    "reason": str,
    "step": int,
    "set_at": TIME,
    "begun_at": TIME,
    "updated_at": TIME,
    "tallies": COUNTS,
    "latest": {str: COUNTS},
    "started": {str: TIME},
    "slow": COUNT,
    "slow_ratio": COUNT,
    "drift": {str: {str: COUNT}},
    "due_at": TIME,
    "is_late": bool,
    "decisions": [
        {
            "time": TIME,
            "since?": TIME,
            "step": int,
            "weight": numbers_within(0, 100),
            "action": among(*map(str, Action)),
            "reason": str,
            "answers": COUNT,
            "readings": [READING],
        }
    ],
}


def load(out: pathlib.Path, plan: Plan) -> State | None:
    """Returns the state in a directory; None if there is none.

    Raises:
        UserError: it cannot be read, or is of another rollout.
    """
    file = out / FILE
    if not file.exists():
        return None
    remedy = "give another --out to begin again"
    contents = read_json(file, {"format": int}, remedy)
    if contents["format"] != FORMAT:
        raise UserError(
            f"{file} is of format {contents['format']}, but this version reads {FORMAT}: {remedy}"
        )
    contents = read_json(file, SCHEMA, remedy)
    names = [field.name for field in dataclasses.fields(State)]
    state = State(**{name: contents[name] for name in names})
    own = (state.model, state.old, state.new, tuple(state.steps))
    if own != (plan.model, plan.old or state.old, plan.new, plan.steps):
        steps = ",".join(f"{step:g}" for step in state.steps)
        raise UserError(
            f"{file} is a rollout of {state.model} from {state.old} to {state.new} by {steps}: "
            "continue that one with the same flags, or give another --out"
        )
    difference = _difference(state, dataclasses.replace(plan, old=state.old))
    if difference:
        raise damaged(file, difference, remedy)
    return state


def _difference(state, plan):
    """Returns what of a state contradicts the rest of it; "" if nothing does."""
    last = len(state.steps) - 1
    steps = {ROLLED_BACK: (-1, -1), DONE: (last, last)}
    low, high = steps.get(state.status, (0, last))
    if not low <= state.step <= high:
        return f"'step' must be from {low} to {high} if it is {state.status}, got {state.step}"
    if state.weights != plan.weights(state.step):
        return "'weights' must be those of the step"
    if state.fingerprints.keys() != {state.old, state.new}:
        return "'fingerprints' must be those of the two versions"
    return ""


def save(out: pathlib.Path, state: State) -> None:
    """Writes the state, in full or not at all; raises `OSError` if it cannot be written."""
    write_json(out / FILE, {"format": FORMAT} | dataclasses.asdict(state))
