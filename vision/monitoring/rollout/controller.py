"""Looks at servers and logs again and again, and sets weights by the rule in `rules`."""

import time
from collections.abc import Callable
from typing import Any

from vision.bundle.directory import MANIFEST, read_manifest
from vision.errors import UserError, brief
from vision.monitoring.rollout import drift, readings, report, rules, server, traffic, webhook
from vision.monitoring.rollout import state as states
from vision.monitoring.rollout.answers import Logged, files_of_step, read_step
from vision.monitoring.rollout.places import Pace, Places
from vision.monitoring.rollout.plan import Plan
from vision.monitoring.rollout.readings import Tally
from vision.monitoring.rollout.rules import Action, Decision, Evidence, Reading
from vision.monitoring.rollout.server import Report
from vision.monitoring.rollout.state import State
from vision.support.digest import sha256

CLOCK = 5.0  # seconds by which clocks may differ, or be adjusted
DOUBTFUL_LOOKS = 3  # in a row after which a doubt is an alert: a scrape may fail once
CHANGES = (Action.RAISE, Action.FINISH, Action.ROLL_BACK)

Reports = dict[str, Report]  # {server's URL: what it says}


class Controller:
    """A rollout in progress.

    Args:
        plan: what to do.
        places: where to read and write.
        pace: how often.
        state: what was done so far.
        show: called with lines of text.
    """

    def __init__(
        self,
        plan: Plan,
        places: Places,
        pace: Pace,
        state: State,
        show: Callable[[str], object] = print,
    ):
        self.plan = plan
        self.places = places
        self.pace = pace
        self.state = state
        self._show = show
        self._doubtful = 0  # looks in a row
        self._clocks = (time.time(), time.monotonic())
        self._progress = time.monotonic()  # when something was last known to go on
        self._answers = -1.0
        self.evidence = Evidence(max(state.step, 0), 0.0, 0.0)  # of the latest look
        self._log: Logged | None = None
        self._log_files: tuple = ()  # that it was read from
        self._classes: list[str] = []
        for version in (plan.old, plan.new):
            names = read_manifest(places.folder / version).classes
            self._classes += [name for name in names if name not in self._classes]

    def run(self) -> None:
        """Looks until the rollout is complete, rolled back, or paused for too long.

        Raises:
            UserError: as `look`.
            OSError, RunError: a file cannot be written.
        """
        if not (self.places.out / states.FILE).exists():
            self._save()  # before the first weights: a kill may come between the two files
        self.follow_weights()
        while True:
            self.apply(self.look())
            if self.state.is_final:
                return
            if self.is_stuck():
                self.state.status = states.PAUSED
                self._save()
                return
            time.sleep(self.pace.interval)

    def is_stuck(self) -> bool:
        """Returns whether nothing has been known to go on for longer than the patience."""
        return time.monotonic() - self._progress > self.pace.patience

    def follow_weights(self) -> None:
        """Lets traffic.json say the state's weights.

        Raises:
            UserError: it says something else than a controller has written.
        """
        state = self.state
        seen = traffic.read(self.places.folder)
        if traffic.matches(seen.weights, state.weights):
            state.before = None
            return
        if state.before is None or not traffic.matches(seen.weights, state.before):
            raise UserError(
                f"{self.places.folder / traffic.FILE} was changed by someone else: it says "
                f"{traffic.describe(seen.weights)}, not {traffic.describe(state.weights)}.\n"
                "It stays as it is, and so does rollout.json: restore the weights to continue, or "
                "begin again with another --out"
            )
        traffic.write(self.places.folder, state.weights, seen.shadow)
        state.set_at = time.time()
        state.before = None

    def look(self) -> Decision:
        """Returns what to do now; the state's counts are brought up to date.

        Raises:
            UserError: traffic.json or a bundle was changed by someone else.
        """
        self.follow_weights()
        return self.measure()

    def measure(self) -> Decision:
        """Returns what to do now; as `look`, but leaves traffic.json alone."""
        self._check_bundles()
        doubts = self._clock_doubts()
        reports = {}
        for url in self.places.servers:
            try:
                reports[url] = server.ask(url, self.plan.model, self.places.key)
            except server.Unreachable as error:
                doubts.append(str(error))
        for url, seen in reports.items():
            doubts += self._doubts_of(url, seen)
        if doubts:
            return self._doubt(doubts)
        if not self.state.begun_at:
            self._doubtful = 0
            return self._begin(reports)
        for url, seen in reports.items():
            self.state.accumulate(url, seen.counts, seen.started)
        try:
            logged = self._logged()
        except UserError as error:  # a file that is just being written, for example
            return self._doubt([f"the log or its labels cannot be read: {brief(error)}"])
        if logged is not None and logged.doubts:
            # which rows are of the step is uncertain: it begins again, without these files
            self.state.restart()
            self._doubtful = DOUBTFUL_LOOKS  # it will not be seen again, so say it at once
            return self._doubt([*logged.doubts, "so the step begins again"])
        self._doubtful = 0
        self.evidence = self._evidence(reports, logged)
        if self.evidence.answers > self._answers:
            self._progress = time.monotonic()
        self._answers = self.evidence.answers
        return rules.decide(self.plan, self.evidence)

    def apply(self, decision: Decision) -> None:
        """Does what was decided, and records it.

        Raises:
            OSError, RunError: a file cannot be written. A rollback changes the weights even if it
                cannot be recorded.
        """
        state = self.state
        record = self._record(decision)
        is_change = state.note(record)
        is_alert = decision.action in (Action.HOLD, Action.PAUSE)
        if not state.is_final:
            state.status = states.PAUSED if is_alert else states.RUNNING
        state.reason = decision.reason
        now = time.time()
        if decision.action is Action.RAISE:
            state.enter(self.plan, state.step + 1, now)
        elif decision.action is Action.ROLL_BACK:
            state.enter(self.plan, -1, now)
            state.status = states.ROLLED_BACK
        elif decision.action is Action.FINISH:
            state.status = states.DONE
        if decision.action in CHANGES:
            self._progress = time.monotonic()
            self._answers = -1.0
        if state.before is not None:
            try:
                self._save()  # the intent first: a kill may come between the two files
            except OSError:
                if decision.action is not Action.ROLL_BACK:
                    raise
            self.follow_weights()
        if is_change:
            self._announce(decision)
        if self._is_late():
            state.is_late = True
            late = f"still, {now - state.due_at:,.0f} s after the window: {decision.reason}"
            self._say(str(decision.action), late)
            self.alert(str(decision.action), late)
        self._save()

    def _check_bundles(self):
        for version, fingerprint in self.state.fingerprints.items():
            file = self.places.folder / version / MANIFEST
            if not file.is_file() or sha256(file) != fingerprint:
                raise UserError(
                    f"{self.places.folder / version} has changed since the rollout began: "
                    "the weights stay as they are; begin again with another --out"
                )

    def _clock_doubts(self):
        """Returns doubts about our own clock; a step whose time is uncertain begins again."""
        wall = time.time()
        steady = time.monotonic()
        jump = (wall - self._clocks[0]) - (steady - self._clocks[1])
        back = self.state.updated_at - wall
        self._clocks = (wall, steady)
        if abs(jump) <= CLOCK and back <= CLOCK:
            return []
        self.state.restart()
        self.state.set_at = wall
        self.state.updated_at = wall
        self._doubtful = DOUBTFUL_LOOKS  # it will not happen again, so say it at once
        return ["this machine's clock was set to another time, so the step begins again"]

    def _doubts_of(self, url, seen):
        """Returns why a server's report says nothing, a clause each."""
        doubts = []
        for version in (self.plan.old, self.plan.new):
            state = seen.states.get(version, "unknown")
            if state != server.READY:
                doubts.append(f"at {url} version {version} is {state}")
        if self.places.log and abs(seen.clock) > CLOCK:
            doubts.append(f"the clock of {url} is {seen.clock:+.0f} s off this machine's")
        return doubts

    def _doubt(self, doubts):
        """Returns the decision in doubt: to wait, and to pause if that goes on."""
        self._doubtful += 1
        step = max(self.state.step, 0)
        self.evidence = Evidence(step, 0.0, 0.0, doubts=doubts)
        if self._doubtful < DOUBTFUL_LOOKS:
            return Decision(Action.WAIT, f"Looking again: {'; '.join(doubts)}.")
        return rules.decide(self.plan, self.evidence)

    def _begin(self, reports):
        """Takes the first counts of a step, once the servers had time to follow its weights."""
        now = time.time()
        self.evidence = Evidence(self.state.step, 0.0, 0.0)
        if now - self.state.set_at < self.pace.settle:
            return Decision(Action.WAIT, "The servers are following the weights.")
        for url, seen in reports.items():
            self.state.accumulate(url, seen.counts, seen.started)  # what the others are from
        self.state.begun_at = now
        return Decision(Action.WAIT, "The step has begun.")

    def _logged(self) -> Logged | None:
        needs_log = {"disagreement", "accuracy"} & set(self.plan.guards)
        if not self.places.log or not needs_log or self.state.is_last:
            return None
        since = self.state.begun_at
        files = (since, *files_of_step(self.places.log, self.places.labels, since))
        if files != self._log_files:  # else nothing was written since the last look
            self._log = read_step(
                self.places.log, self.plan, self._classes, self.places.labels, since
            )
            self._log_files = files
        return self._log

    def _evidence(self, reports, logged):
        """Returns what is known of the step."""
        state = self.state
        old, new = (state.tallies.get(name, {}) for name in (self.plan.old, self.plan.new))
        values = self._guardrails(reports, old, new)
        if logged is not None:
            values += logged.readings
        return Evidence(
            step=state.step,
            answers=readings.requests(new),
            seconds=time.time() - state.begun_at,
            readings=values,
            split_p=readings.split_p(
                readings.requests(old), readings.requests(new), self.plan.share(state.step)
            ),
            labels=logged.labels if logged else 0,
            logged=logged.requests if logged else None,
            labeled=logged.labeled if logged else (0.0, 0.0),
            labeled_p=logged.labeled_p if logged else 1.0,
        )

    def _guardrails(self, reports: Reports, old: Tally, new: Tally) -> list[Reading]:
        """Returns the readings of the guardrails that the metrics have."""
        values = []
        if "errors" in self.plan.guards:
            values.append(readings.errors(old, new, self.plan.limits.errors))
        if "p99" in self.plan.guards:
            values.append(readings.p99(old, new, self._slow_bound(old)))
        if "drift" in self.plan.guards and not self.state.is_last:  # the old version has no traffic
            values.append(self._drift(reports, readings.requests(new)))
        return values

    def _slow_bound(self, old):
        """Returns the bound above which an answer is slow, 0 if it cannot be chosen yet."""
        state = self.state
        ratio = self.plan.limits.p99
        chosen = state.slow if ratio == state.slow_ratio else 0.0
        if old.get(readings.ANSWERED, 0.0) >= self.plan.min_answers:
            # it never falls: what was too slow at first may turn out to be usual
            chosen = max(chosen, readings.slow_bound(old, ratio))
        state.slow = chosen
        state.slow_ratio = ratio
        return chosen

    def _drift(self, reports: Reports, answers: float) -> Reading:
        """Follows the new version's windows that ended since the step began."""
        state = self.state
        for url, seen in reports.items():
            state.drift[url] = drift.follow(
                state.drift.get(url, {}), seen, self.plan.old, self.plan.new, state.begun_at
            )
        return drift.reading(state.drift, answers)

    def _record(self, decision: Decision) -> dict[str, Any]:
        """Returns a decision as rollout.json has it."""
        evidence = self.evidence
        return {
            "time": time.time(),
            "step": self.state.step,
            "weight": self.state.weight,
            "action": str(decision.action),
            "reason": decision.reason,
            "answers": evidence.answers,
            "split_p": evidence.split_p,
            "labels": evidence.labels,
            "labeled": list(evidence.labeled),
            "labeled_p": evidence.labeled_p,
            "readings": [report.plain(reading) for reading in evidence.readings],
        }

    def _save(self):
        self.state.updated_at = time.time()
        states.save(self.places.out, self.state)
        report.write(self.places.out, self.plan, self.state)

    def _is_late(self):
        """Returns whether to say, once in a step, that it lasts long beyond its window."""
        state = self.state
        is_over = state.begun_at and rules.is_over(self.plan, self.evidence)
        if state.is_final or state.is_late or not is_over:
            return False
        state.due_at = state.due_at or time.time()
        return time.time() - state.due_at > self.pace.patience

    def _say(self, action, reason):
        plan = self.plan
        self._show(f"{plan.model} {plan.new}, {self.state.weight:g} %: {action}: {reason}")

    def _announce(self, decision):
        """Says what has changed, to the terminal and, if it matters, to the webhook."""
        self._say(decision.action, decision.reason)
        if decision.action is not Action.WAIT:
            self.alert(str(decision.action), decision.reason)

    def alert(self, action: str, reason: str) -> None:
        """Says something to the webhook, if there is one."""
        if not self.places.webhook:
            return
        plan = self.plan
        body = {
            "text": f"rollout of {plan.model} {plan.new}: {action}: {reason}",
            "model": plan.model,
            "version": plan.new,
            "status": self.state.status,
            "action": action,
            "weight": self.state.weight,
        }
        failure = webhook.post(self.places.webhook, body)
        if failure:  # the rollout goes on without it
            self._show(failure)
