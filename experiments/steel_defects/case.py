"""The stages of the inspection case: each is a command that a user would give, and what it said."""

import csv
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable
from typing import Any

from experiments.circle.canary import NEW, OLD, REFUSED, forget_stopped, roll_out
from experiments.circle.data import truth
from experiments.circle.run import fill_in
from experiments.circle.traffic import ask, serving, wait_for_rows
from experiments.commands import call
from experiments.minutes import counted, read_minutes
from experiments.steel_defects import lines, patches
from experiments.steel_defects.verdicts import judge
from vision.bundle.directory import MANIFEST
from vision.errors import RunError, UserError
from vision.monitoring.rollout.state import DONE
from vision.support.files import write_json

MODEL = "steel"
# Accuracy that the gate lets the next model lose under the old light: of the laboratory's 177 test
# patches one is 0.6 points, so the default of one point would be decided by two patches.
LOSS = 0.03
SETTLED = 3.0  # seconds until the server uses new weights
DEFECTS = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
STAGES = ("prepare", "audit", "train", "evaluate", "audit_again", "compress", "scan", "watch")
SERVICE = ("traffic", "drift", "collect", "learn", "gate", "rollout", "abtest")  # parts of "watch"
# The stages of an evaluation that the page does not show.
BRIEF = {"evaluation.corruptions": False, "evaluation.views": False}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        pictures: of each class at most.
        depth: of the ResNet with CBAM.
        resnet_epochs: of its training, from random weights.
        lite_epochs: of EfficientNet-Lite0 from ImageNet's.
        pruned_epochs: after the pruning.
        more_steps: of the incremental training.
        labels: patches that people label after the light has changed.
        lines: line-scan pictures.
        window: answers in a window of the rollout.
    """

    pictures: int = 300
    depth: str = "50"
    resnet_epochs: float = 30.0
    lite_epochs: float = 12.0
    pruned_epochs: float = 12.0
    more_steps: int = 300
    labels: int = 150
    lines: int = 24
    window: int = 200


SIZES = {
    "full": Size(),
    "smoke": Size(40, "18", 1.0, 2.0, 1.0, 30, 30, 4, 50),
}


class Case:
    """The case in a directory.

    Args:
        tar: neu_det.tar.
        folder: the directory.
        size: how much of everything.
    """

    def __init__(self, tar: pathlib.Path, folder: pathlib.Path, size: Size):
        self.tar = tar
        self.folder = folder
        self.size = size
        self.patches = folder / "patches"
        self.models = folder / "models"
        self.log = folder / "log"

    @property
    def lab(self) -> str:
        """The source of the laboratory's patches."""
        return f"csv:{self.patches / 'lab.csv'}"

    def run(self, name: str) -> pathlib.Path:
        """Returns the directory of a run."""
        return self.folder / "runs" / name

    def bundle(self, version: str) -> pathlib.Path:
        """Returns the directory of a served version."""
        return self.models / MODEL / version

    @property
    def minutes(self) -> dict[str, float]:
        """{finished stage: minutes of all attempts}; the service's parts come before the whole."""
        files = {name: self._record(name) for name in (*STAGES[:-1], *SERVICE, STAGES[-1])}
        return {name: _read(file)["minutes"] for name, file in files.items() if file.is_file()}

    def begin(self) -> None:
        """Notes the size in the directory.

        Raises:
            UserError: what is there was made in another size, or nobody knows in which.
        """
        file = self.folder / "size.json"
        size = dataclasses.asdict(self.size)
        if not file.is_file() and not (self.folder / "stages").is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, size)
        elif not file.is_file() or _read(file) != size:
            raise UserError(
                f"{self.folder} has stages of another size: give another --workdir, or the --size "
                "that they were made in"
            )

    def stage(self, name: str, function: Callable[[], Any]) -> Any:
        """Runs a stage and notes its minutes; what is finished is read from its record.

        Returns:
            what the function returned, as JSON keeps it.
        """
        file = self._record(name)
        if not file.is_file():
            print(f"== {name}", flush=True)
            minutes = file.with_suffix(".time")
            with counted(minutes):
                result = function()
            write_json(file, {"result": result, "minutes": round(read_minutes(minutes), 2)})
        return _read(file)["result"]

    def _record(self, name: str) -> pathlib.Path:
        """Returns the file that says that a stage is finished."""
        return self.folder / "stages" / f"{name}.json"

    def prepare(self) -> dict[str, Any]:
        """Cuts patches, and puts the line-scan pictures together."""
        voc = patches.extract(self.tar, self.folder / "voc")
        counts = patches.write_patches(voc, self.patches, self.size.pictures)
        divided = patches.divided_pictures(patches.read_pictures(voc), self.size.pictures)
        others = [picture for part, _, picture in divided if part == "tests"]
        defects = lines.write_lines(others, self.folder / "lines", self.size.lines)
        return {"patches": counts, "defects": len(defects)}

    def audit(self) -> dict[str, Any]:
        """Audits the annotated pictures, from which no model has learned yet.

        So the audit compares them by ImageNet's weights of EfficientNet-Lite0 if they are
        installed, else by their pixels. There are 1,770 in every size.
        """
        out = self.folder / "audits" / "pictures"
        source = f"voc:{self.folder / 'voc' / 'neu_det'}"
        call("vision.audit", f"--data={source}", f"--out={out}", output=out / "audit.json")
        return _read(out / "audit.json")

    def train(self) -> dict[str, Any]:
        """Trains a ResNet with CBAM, and EfficientNet-Lite0 from its ImageNet weights."""
        shared = {"data.source": self.lab, "data.image_size": patches.SIDE}
        resnet = shared | {
            "data.channels": 1,
            "model.name": "resnet",
            "model.variant": self.size.depth,
            "model.gate": "cbam",
            "optimizer.learning_rate": 1e-3,
            "train.epochs": self.size.resnet_epochs,
        }
        lite = shared | {"train.epochs": self.size.lite_epochs}
        config = f"configs/transfer_folder.py:{self.patches}"
        for name, flags, mode in (("resnet-cbam", resnet, ":scratch"), ("lite0", lite, "")):
            self._train(name, f"--config={config}{mode}", flags)
        return {name: _result(self.run(name)) for name in ("resnet-cbam", "lite0")}

    def evaluate(self) -> dict[str, Any]:
        """Evaluates both, compares them, and asks for misses and false alarms at a recall."""
        for name in ("resnet-cbam", "lite0"):
            self._evaluate(name, BRIEF)
        runs = [str(self.run(name)) for name in ("resnet-cbam", "lite0")]
        out = self.folder / "comparison"
        record = out / "comparison.json"
        call("vision.evaluation.compare", *runs, f"--out={out}", output=record)
        merged = self.run("lite0-defect")
        classes = f"--merge=defect={','.join(DEFECTS)}"
        flags = [f"--workdir={self.run('lite0')}", f"--out={merged}", classes]
        call("vision.run.classes", *flags, output=merged / "result.json")
        wanted = {"evaluation.positive": "defect", "evaluation.recall": 0.99}
        self._evaluate("lite0-defect", BRIEF | wanted)
        names = ("resnet-cbam", "lite0", "lite0-defect")
        return {name: _read(self.run(name) / "evaluation" / "metrics.json") for name in names}

    def audit_again(self) -> dict[str, Any]:
        """Audits the patches by the embeddings of the model that has learned from them."""
        out = self.folder / "audits" / "patches"
        flags = [f"--data={self.lab}", f"--embeddings={self.run('lite0')}", f"--out={out}"]
        call("vision.audit", *flags, output=out / "audit.json")
        return _read(out / "audit.json")

    def compress(self) -> dict[str, Any]:
        """Prunes, distills and quantizes EfficientNet-Lite0."""
        pruned = self.run("lite0-pruned")
        flags = [f"--workdir={self.run('lite0')}", f"--out={pruned}", "--ratio=0.5"]
        flags += ["--target=flops", "--importance=taylor"]
        config = {
            "train.epochs": self.size.pruned_epochs,
            "objective.name": "distillation",
            "objective.options.teacher": self.run("lite0"),
        }
        record = pruned / "pruning.json"
        call("vision.compression.prune", *flags, config=config, output=record)
        self._train("lite0-pruned", "", {})
        for name in ("lite0", "lite0-pruned"):
            self._bundle(name, self.folder / "bundles" / f"{name}-int8")
        out = self.folder / "compression"
        names = ("lite0", "lite0-int8", "lite0-pruned", "lite0-pruned-int8")
        bundles = [str(self.folder / "bundles" / name) for name in names]
        record = out / "report.json"
        call("vision.compression.report", *bundles, f"--out={out}", output=record)
        return _read(out / "report.json")

    def scan(self) -> dict[str, Any]:
        """Predicts the line-scan pictures by tiles, and judges the decisions."""
        folder = self.folder / "lines"
        answers = self.folder / "lines.jsonl"
        flags = [f"--bundle={self.folder / 'bundles' / 'lite0-pruned-int8'}"]
        flags += [f"--tiles={patches.SIDE}", "--overlap=0.25", f"--normal={patches.GOOD}"]
        flags += [f"--maps={self.folder / 'maps'}", "--format=json", "--top=7"]
        call("vision.predict", *flags, str(folder), stdout=answers)
        decisions = [json.loads(line) for line in answers.read_text().splitlines()]
        return judge(decisions, lines.read_defects(folder))

    def watch(self) -> dict[str, Any]:
        """Serves the model, changes the light, and goes as far as a better one can get.

        Returns:
            {"served", "drift", "labeled", "gate", "rollout", "test"}, each as its stage returned
            it; None for what had no reason, because drift gave no alarm, the gate did not let the
            next model pass, or the rollout took it back.
        """
        self._bundle("lite0-pruned", self.bundle(OLD))
        served = self._record("traffic").is_file()
        done = self._record("rollout").is_file()
        forget_stopped(self.folder, MODEL, is_served=served, is_rolled_out=done)
        with serving(self.models, self.log) as url:
            return self._improve(url)

    def _improve(self, url: str) -> dict[str, Any]:
        results: dict[str, Any] = dict.fromkeys(
            ("served", "drift", "labeled", "gate", "rollout", "test")
        )
        results["served"] = self.stage("traffic", lambda: self._ask(url))
        results["drift"] = self.stage("drift", self._drift)
        if not results["drift"]["alarm"]:
            return results
        results["labeled"] = self.stage("collect", self._collect)
        self.stage("learn", self._learn)
        results["gate"] = self.stage("gate", self._gate)
        if not results["gate"]["passed"]:
            return results
        results["rollout"] = self.stage("rollout", lambda: self._roll_out(url))
        if results["rollout"]["status"] == DONE:
            results["test"] = self.stage("abtest", self._analyze)
        return results

    def _ask(self, url: str) -> dict[str, float]:
        images = {part: truth(self.patches / part) for part in ("before", "later")}
        accuracy = {part: ask(url, MODEL, files) for part, files in images.items()}
        wait_for_rows(self.log, sum(map(len, images.values())))
        return accuracy

    def _drift(self) -> dict[str, Any]:
        out = self.folder / "drift"
        call("vision.monitoring.drift", *self._logged(), f"--out={out}")
        return _read(out / "drift.json")

    def _collect(self) -> int:
        out = self.folder / "to_label"
        flags = [*self._logged(), f"--out={out}", f"--count={self.size.labels}"]
        call("vision.monitoring.collect", *flags, output=out / "collection.json")
        table = out / "images.csv"
        fill_in(table, truth(self.patches / "before") | truth(self.patches / "later"))
        call("vision.monitoring.collect", f"--labeled={table}", f"--out={out}")
        with table.open(newline="") as file:
            return len(list(csv.DictReader(file)))

    def _learn(self) -> dict[str, Any]:
        labeled = f"csv:{self.folder / 'to_label' / 'labeled.csv'}"
        config = f"configs/incremental.py:{self.run('lite0-pruned')}:{labeled}"
        flags = {
            "continual.memory": "all",
            "objective.options.lwf": 0.0,
            "objective.options.new_share": 0.5,
            "data.fractions": "(0.8,0.1,0.1)",
            "train.steps": self.size.more_steps,
            "train.eval_every": max(1, self.size.more_steps // 4),
        }
        self._train("next", f"--config={config}", flags)
        return _result(self.run("next"))

    def _gate(self) -> dict[str, Any]:
        out = self.folder / "gate"
        runs = [str(self.run("lite0-pruned")), str(self.run("next"))]
        data = [f"--data=old={self.lab}", f"--data=new=folder:{self.patches / 'tests'}"]
        flags = [*data, f"--max-loss=old={LOSS}", f"--out={out}"]
        call("vision.evaluation.gate", *runs, *flags, allowed=(0, REFUSED))
        return _read(out / "gate.json")

    def _roll_out(self, url: str) -> dict[str, Any]:
        self._bundle("next", self.bundle(NEW))
        images = truth(self.patches / "tests")
        return roll_out(self.folder, MODEL, url, images, self.size.window)

    def _analyze(self) -> dict[str, Any]:
        """Both versions' answers while each had half of the traffic."""
        out = self.folder / "abtest"
        flags = [f"--log={self.log}", f"--model={MODEL}", f"--old={OLD}", f"--new={NEW}"]
        flags += [f"--labels={self.folder / 'labels'}", f"--out={out}", "--sequential"]
        flags += [*_half(_read(self.folder / "rollout" / "rollout.json"))]
        call("vision.monitoring.abtest", "analyze", *flags)
        return _read(out / "abtest.json")

    def _logged(self) -> list[str]:
        window = len(truth(self.patches / "before"))
        return [f"--bundle={self.bundle(OLD)}", f"--log={self.log}", f"--window={window}"]

    def _train(self, name: str, config: str, flags: dict[str, object]) -> None:
        workdir = self.run(name)
        words = [word for word in (config, f"--workdir={workdir}") if word]
        call("vision.main", *words, config=flags, output=workdir / "result.json")

    def _evaluate(self, name: str, flags: dict[str, object]) -> None:
        workdir = self.run(name)
        out = workdir / "evaluation" / "metrics.json"
        call("vision.evaluation", f"--workdir={workdir}", config=flags, output=out)

    def _bundle(self, name: str, small: pathlib.Path) -> None:
        """Makes bundles/NAME of a run, and an INT8 bundle of that."""
        bundle = self.folder / "bundles" / name
        flags = [f"--workdir={self.run(name)}", f"--out={bundle}"]
        call("vision.export", *flags, output=bundle / MANIFEST)
        flags = [f"--bundle={bundle}", f"--out={small}"]
        call("vision.compression.quantize", *flags, output=small / MANIFEST)


def _read(file: pathlib.Path) -> Any:
    """Returns what a command has written; raises `RunError` if it has not."""
    if not file.is_file():
        raise RunError(f"the command above has not written {file}")
    return json.loads(file.read_text())


def _result(run: pathlib.Path) -> dict[str, Any]:
    result = _read(run / "result.json")
    names = ("accuracy", "balanced_accuracy", "steps", "train_seconds", "parameters", "device")
    return {name: result[name] for name in names if name in result}


def _half(rollout: dict[str, Any]) -> list[str]:
    """Returns the flags of the time in which each version had half of the traffic."""
    raised = [d["time"] for d in rollout["decisions"] if d["action"] == "raise"]
    since = raised[0] + SETTLED
    moments = (datetime.datetime.fromtimestamp(t, datetime.UTC) for t in (since, raised[1]))
    return [
        f"--{name}={moment:%Y-%m-%dT%H:%M:%S}"
        for name, moment in zip(("since", "until"), moments, strict=True)
    ]
