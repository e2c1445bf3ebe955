"""The whole circle: a model is served, the light changes, and a better one takes its place.

    python -m experiments.circle.run digits                              # minutes
    python -m experiments.circle.run neu --place neu_det.tar             # steel under another light
    python -m experiments.circle.run neu --place neu_det.tar --record    # writes the README's table

Each step is the command that a user would give, and is printed as such. What is finished in
--workdir is not done again. Exits with 1 where the circle ends early: if no drift is seen, if the
gate does not let the new model pass, or if the rollout takes it back.

    serve -> drift -> collect -> label -> incremental training -> gate -> export -> canary -> 100 %
"""

import argparse
import csv
import json
import pathlib

from experiments.circle.canary import NEW, OLD, forget_stopped, roll_out
from experiments.circle.data import DATA, Data, prepare, truth
from experiments.circle.traffic import ask, serving, wait_for_rows
from experiments.commands import call
from experiments.minutes import counted, read_minutes
from vision import cli
from vision.bundle.directory import MANIFEST
from vision.errors import RunError
from vision.monitoring.rollout.state import DONE
from vision.support.files import replacing, write_json

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.csv"
BEGIN, END = "<!-- results -->", "<!-- end -->"
WHEN = ("before", "after")
ACCURACIES = [f"{name} accuracy {when}" for name in ("old", "new") for when in WHEN]
COLUMNS = ["data", "windows", "alarms", "labeled", "old images", "new images", *ACCURACIES]
COLUMNS += ["weight", "answers", "failed", "minutes"]
WINDOW = 200  # answers that the rollout's guardrails look at
ALARM = 1  # exit code of --strict


class Circle:
    """The circle in a directory.

    Args:
        data: what it is about.
        folder: the directory.
    """

    def __init__(self, data: Data, folder: pathlib.Path):
        self.data = data
        self.folder = folder
        self.images = folder / "images"
        self.run = folder / "run"
        self.next = folder / "next"
        self.log = folder / "log"
        self.served = folder / "served.json"
        self.asked = folder / "asked.json"
        self.to_label = folder / "to_label"
        self.models = folder / "models"

    def bundle(self, version: str) -> pathlib.Path:
        return self.models / self.data.name / version

    def train(self) -> None:
        """Trains a model and exports its bundle."""
        data = self.data
        if not (self.run / "result.json").is_file():
            flags = {"data.channels": 1, "data.fractions": "(0.6,0.1,0.3)"}
            flags |= {"model.variant": data.variant, "train.steps": data.steps}
            flags["train.eval_every"] = data.steps // 4
            config = f"configs/gan_folder.py:{self.images / 'photos'}:{data.side}:classifier"
            call("vision.main", f"--config={config}", f"--workdir={self.run}", config=flags)
        self._export(self.run, OLD)

    def serve(self, url: str) -> None:
        """Asks about images as before, then about those under another light."""
        if self.served.is_file():
            return
        accuracy = {}
        for part in ("before", "later"):
            accuracy[part] = ask(url, self.data.name, truth(self.images / part))
            print(f"{part}: {100 * accuracy[part]:.1f} % of the answers are right", flush=True)
        wait_for_rows(self.log, sum(len(truth(self.images / part)) for part in accuracy))
        write_json(self.served, accuracy)

    def drift(self) -> None:
        """Raises `RunError` if the change of the light is not seen."""
        out = self.folder / "drift"
        flags = [f"--bundle={self.bundle(OLD)}", f"--log={self.log}", f"--window={self.window}"]
        if self.to_label.is_dir():
            return
        alarm = call(
            "vision.monitoring.drift", *flags, f"--out={out}", "--strict", allowed=(0, ALARM)
        )
        if alarm != ALARM:
            raise RunError("no drift was detected: there is nothing to learn")

    @property
    def window(self) -> int:
        """Images in a window of drift: as many as were asked before the light changed."""
        return len(truth(self.images / "before"))

    def collect(self) -> None:
        """Chooses images, lets the truth label them, and takes the answers back."""
        if (self.to_label / "labeled.csv").is_file():
            return
        flags = [f"--bundle={self.bundle(OLD)}", f"--log={self.log}", f"--window={self.window}"]
        call(
            "vision.monitoring.collect",
            *flags,
            f"--out={self.to_label}",
            f"--count={self.data.labels}",
        )
        table = self.to_label / "images.csv"
        fill_in(table, truth(self.images))
        call("vision.monitoring.collect", f"--labeled={table}", f"--out={self.to_label}")

    def learn(self) -> None:
        """Trains on the labeled images and on the old ones, from the old model's weights.

        Without learning without forgetting: the old model's answers to the new images are wrong.
        """
        if (self.next / "result.json").is_file():
            return
        config = f"configs/incremental.py:{self.run}:csv:{self.to_label / 'labeled.csv'}"
        flags = {"continual.memory": "all", "objective.options.lwf": 0.0}
        flags |= {"objective.options.new_share": 0.5, "data.fractions": "(0.8,0.1,0.1)"}
        flags |= {"train.steps": self.data.more, "train.eval_every": self.data.more // 4}
        call("vision.main", f"--config={config}", f"--workdir={self.next}", config=flags)

    def judge(self) -> dict:
        """Returns gate.json; raises `RunError` if the new model must not take its place."""
        out = self.folder / "gate"
        if not (out / "gate.json").is_file():
            images = [f"old=folder:{self.images / 'photos'}", f"new=folder:{self.images / 'tests'}"]
            flags = [f"--data={each}" for each in images]
            call("vision.evaluation.gate", str(self.run), str(self.next), *flags, f"--out={out}")
        return json.loads((out / "gate.json").read_text())

    def forget_stopped(self) -> None:
        """Removes what a stopped attempt has left; see `experiments.circle.canary`."""
        served = self.served.is_file()
        asked = self.asked.is_file()
        forget_stopped(self.folder, self.data.name, is_served=served, is_rolled_out=asked)

    def roll_out(self, url: str) -> dict:
        """Exports the new model and gives it the traffic, step by step.

        Returns:
            {"rollout": status, "answers", "failed": how many of the requests sent meanwhile}.

        Raises:
            RunError: the rollout takes the new model back.
        """
        if not self.asked.is_file():
            self._export(self.next, NEW)
            images = truth(self.images / "tests")
            record = roll_out(self.folder, self.data.name, url, images, WINDOW)
            write_json(self.asked, record)
        record = json.loads(self.asked.read_text())
        if record["status"] != DONE:
            raise RunError(f"the new model was rolled back: {record['reason']}")
        answers = sum(record["answers"].values())
        return {"rollout": record["status"], "answers": answers, "failed": record["failed"]}

    def _export(self, run, version):
        if not (self.bundle(version) / MANIFEST).is_file():
            call("vision.export", f"--workdir={run}", f"--out={self.bundle(version)}")


def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("data", choices=sorted(DATA))
    p.add_argument("--place", type=pathlib.Path, default=pathlib.Path("neu_det.tar"))
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/circle"))
    p.add_argument("--record", action="store_true", help="write results.csv and the README's table")
    a = p.parse_args(argv)
    data = DATA[a.data]
    folder = a.workdir / data.name
    prepare(data, a.place, folder / "images")
    record = go_round(Circle(data, folder))
    print(*(f"{name}: {value}" for name, value in record.items()), sep="\n")
    if a.record:
        write_results(record)


def go_round(circle: Circle) -> dict:
    """Runs the circle once; returns and writes circle.json."""
    file = circle.folder / "circle.json"
    if file.is_file():
        return json.loads(file.read_text())
    minutes = circle.folder / "minutes.json"
    with counted(minutes):
        circle.train()
        circle.forget_stopped()
        with serving(circle.models, circle.log) as url:
            circle.serve(url)
            circle.drift()
            circle.collect()
            circle.learn()
            gate = circle.judge()
            counts = circle.roll_out(url)
            after = ask(url, circle.data.name, truth(circle.images / "tests"))
    record = summary(circle, gate, counts)
    record |= {"served after": after, "minutes": round(read_minutes(minutes), 1)}
    write_json(file, record)
    return record


def summary(circle: Circle, gate: dict, counts: dict) -> dict:
    """Returns what the circle has measured."""
    windows = json.loads((circle.folder / "drift" / "drift.json").read_text())["windows"]
    rows = list(csv.DictReader((circle.to_label / "images.csv").open()))
    record = {
        "data": circle.data.name,
        "windows": len(windows),
        "alarms": [window["alarm"] for window in windows].count(True),
        "labeled": len(rows),
    }
    for name in ("old", "new"):
        measured = gate["data"][name]
        record[f"{name} images"] = measured["images"]
        for when, accuracy in zip(WHEN, measured["accuracy"], strict=True):
            record[f"{name} accuracy {when}"] = accuracy
    weights = json.loads((circle.models / circle.data.name / "traffic.json").read_text())["weights"]
    return record | {
        "weight": weights[NEW],
        **counts,
    }


def fill_in(table: pathlib.Path, labels: dict[bytes, str]) -> None:
    """Fills in the column `label` of images.csv, as the person who labels would."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with replacing(table, newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"label": labels[(table.parent / row["path"]).read_bytes()]})


def write_results(record: dict) -> None:
    """Replaces the data's line of results.csv, and the table of README.md between its marks."""
    lines = []
    if RESULTS.is_file():
        with RESULTS.open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["data"] != record["data"]]
    numbers = {key: round(record[key], 4) if "accuracy" in key else record[key] for key in COLUMNS}
    lines = sorted([*lines, numbers], key=lambda line: line["data"])
    with replacing(RESULTS, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    heads = ["data", "drift", "labels", "changed light: before", "after", "old light: before"]
    heads += ["after", "of the traffic", "minutes"]
    table = [heads, ["---"] * len(heads), *map(cells, lines)]
    text = (HERE / "README.md").read_text()
    head, _, rest = text.partition(BEGIN)
    rows = "\n".join(f"| {' | '.join(row)} |" for row in table)
    with replacing(HERE / "README.md") as file:
        file.write(f"{head}{BEGIN}\n{rows}\n{END}{rest.partition(END)[2]}")


def cells(line: dict) -> list[str]:
    """Returns the cells of a line of the table."""
    accuracy = {
        key: f"{100 * float(line[key]):.1f} % of {line[key.split()[0] + ' images']}"
        for key in COLUMNS
        if "accuracy" in key
    }
    return [
        line["data"],
        f"{line['alarms']} of {line['windows']} windows",
        str(line["labeled"]),
        *(accuracy[f"{name} accuracy {when}"] for name in ("new", "old") for when in WHEN),
        f"{line['weight']} %, {line['failed']} of {line['answers']} failed",
        str(line["minutes"]),
    ]


if __name__ == "__main__":
    cli.run(main)
