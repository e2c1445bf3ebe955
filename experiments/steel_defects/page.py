"""The case as a page with pictures, and as the tables of README.md: the same sections in both."""

import dataclasses
import datetime
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np

from experiments.readme import fill
from experiments.steel_defects import patches
from experiments.steel_defects.case import NEW, Case
from vision.data.pictures import data_uri
from vision.monitoring.rollout.state import DONE
from vision.support.files import replacing, write_json
from vision.support.page import render
from vision.support.processes import cores

HERE = pathlib.Path(__file__).parent
TEMPLATE = HERE / "report.html"
SAMPLES = 12  # patches of each class on the sheet
WIDTH = 1400  # pixels of a picture on the page
# {embeddings of an audit: in words}; anything else is a run
EMBEDDINGS = {"pixels": "pixels", "pretrained": "ImageNet's EfficientNet-Lite0"}


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: of the README's table.
        title: heading.
        text: what was done and what came out.
        heads, rows: the table.
        pictures: [(file name, uint8 (H, W, 3) in OpenCV's order, caption)].
        links: [(address beside the page, title)].
    """

    name: str
    title: str
    text: str
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[tuple[str, np.ndarray, str]] = ()
    links: Sequence[tuple[str, str]] = ()


def write(case: Case, results: dict[str, Any], failure: str = "") -> None:
    """Writes WORKDIR/report.html, and report.json with all numbers.

    Args:
        case: the case.
        results: {stage: what it returned} of the stages that are finished.
        failure: why the others are not, a sentence.
    """
    verdicts = [("bad", failure)] if failure else []
    context = {
        "date": datetime.date.today().isoformat(),
        "where": where(results),
        "minutes": sum(case.minutes[name] for name in results),
        "summary": [*verdicts, *summary(case, results)],
        "sections": [
            dataclasses.asdict(section)
            | {"pictures": [(_uri(image), caption) for _, image, caption in section.pictures]}
            for section in sections(case, results)
        ],
    }
    with replacing(case.folder / "report.html") as file:
        file.write(render(TEMPLATE, context))
    write_json(case.folder / "report.json", {"minutes": case.minutes, "results": results})


def record(case: Case, results: dict[str, Any], place: pathlib.Path = HERE) -> None:
    """Writes the tables of README.md in a folder, and its pictures."""
    pictures = place / "pictures"
    pictures.mkdir(exist_ok=True)
    for section in sections(case, results):
        lines = [*_table(section.heads, section.rows), "", section.text]
        for name, image, caption in section.pictures:
            cv2.imwrite(str(pictures / name), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
            lines += ["", f"![{caption}](pictures/{name})"]
        fill(place / "README.md", lines, section.name)
    date = datetime.date.today().isoformat()
    sentences = [f"- {sentence}" for _, sentence in summary(case, results)]
    lines = [*sentences, "", f"{date}, {where(results)}."]
    fill(place / "README.md", lines, "summary")


def where(results: dict[str, Any]) -> str:
    """Returns the machine, what the models were trained on, and the versions, in words."""
    words = [f"{cores()} cores", platform.machine()]
    if "train" in results:
        words.append(f"trained on {results['train']['lite0']['device']}")
    return ", ".join([*words, f"jax {jax.__version__}", "one seed"])


def summary(case: Case, results: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns what came out: ("good" or "bad", a sentence) each."""
    verdicts = []
    if "train" in results:
        lite = results["train"]["lite0"]["accuracy"]
        resnet = results["train"]["resnet-cbam"]["accuracy"]
        sentence = (
            f"EfficientNet-Lite0 from ImageNet's weights is right about {_percent(lite)} of the "
            f"test patches, {_titles(case)['resnet-cbam']} from random weights about "
            f"{_percent(resnet)}."
        )
        verdicts.append(("good", sentence))
    if "scan" in results:
        scan = results["scan"]
        sentence = (
            f"{scan['misses']} of {scan['bad']} line-scan pictures with defects are missed; "
            f"{scan['false_alarms']} of {scan['clean']} without any are false alarms."
        )
        wrong = scan["misses"] + scan["false_alarms"]
        is_better_than_chance = wrong < (scan["bad"] + scan["clean"]) / 2
        verdicts.append(("good" if is_better_than_chance else "bad", sentence))
    return verdicts + (_outcome(results["watch"]) if "watch" in results else [])


def _outcome(watch: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns how far the service has come, as `summary` does."""
    gate = watch["gate"]
    rollout = watch["rollout"]
    if gate is None:
        return [("bad", "A lamp has failed, and drift gives no alarm: nothing is learned.")]
    new = gate["data"]["new"]["accuracy"]
    learned = (
        "good",
        f"After a lamp has failed, {_percent(new[0])} of the answers are right; after the "
        f"incremental training {_percent(new[1])}.",
    )
    if rollout is None:
        broken = "; ".join(rule["text"] for rule in gate["rules"] if not rule["passed"])
        return [learned, ("bad", f"The gate does not let the new model pass. Broken: {broken}.")]
    if rollout["status"] != DONE:
        return [learned, ("bad", f"The new version was rolled back. {rollout['reason']}")]
    traffic = (
        f"The new version got {rollout['weights'][NEW]:g} % of the traffic; {rollout['failed']:,} "
        f"of {sum(rollout['answers'].values()):,} requests failed."
    )
    return [learned, ("good", traffic)]


def sections(case: Case, results: dict[str, Any]) -> list[Section]:
    """Returns the parts of the page whose stages are finished."""
    parts = (
        (_data, ("prepare", "audit", "audit_again")),
        (_models, ("train", "evaluate")),
        (_misses, ("evaluate",)),
        (_costs, ("compress",)),
        (_lines, ("scan",)),
        (_service, ("watch",)),
        (_minutes, ()),
    )
    return [make(case, results) for make, needed in parts if set(needed) <= set(results)]


def _data(case: Case, results: dict[str, Any]) -> Section:
    counts = results["prepare"]["patches"]
    audits = [("pictures", results["audit"]), ("patches", results["audit_again"])]
    kinds = ("duplicate", "near_duplicate", "blurred", "blank", "outlier", "wrong_label")
    rows = [
        (
            f"{name}, by {EMBEDDINGS.get(audit['embeddings'], 'the trained EfficientNet-Lite0')}",
            f"{audit['images']:,}",
            *(str(audit["counts"][kind]) for kind in kinds),
        )
        for name, audit in audits
    ]
    text = (
        f"Patches of {patches.SIDE} pixels, with one kind of defect or without any: "
        f"{counts['train']:,} to train on, {counts['val']:,} to validate, {counts['test']:,} to "
        f"test (7 : 2 : 1 by picture); {counts['before']:,} for the service before the light "
        f"changes, {counts['later']:,} after that, and {counts['tests']:,} to judge the next "
        "model by. Below, what the audits have marked: a person decides."
    )
    heads = ("images", "number", *(kind.replace("_", " ") for kind in kinds))
    caption = "Patches of each class; the third row has no defect."
    links = [(f"audits/{name}/report.html", f"audit of the {name}") for name, _ in audits]
    sheet = ("patches.jpg", _sheet(case), caption)
    return Section("data", "The data", text, heads, rows, [sheet], links)


def _titles(case: Case) -> dict[str, str]:
    """Returns {run: its model in words}."""
    return {
        "resnet-cbam": f"ResNet-{case.size.depth} with CBAM",
        "lite0": "EfficientNet-Lite0",
    }


def _models(case: Case, results: dict[str, Any]) -> Section:
    titles = _titles(case)
    rows = []
    for name, title in titles.items():
        metrics = results["evaluate"][name]["metrics"]
        rows.append(
            (
                title,
                _interval(metrics["accuracy"]),
                _interval(metrics["balanced_accuracy"]),
                f"{results['train'][name]['train_seconds'] / 60:.1f}",
            )
        )
    text = (
        "Accuracy on the test patches, seven classes, with 95 % intervals. The ResNet has random "
        "weights here; --config.model.pretrained names published ones where they can be had."
    )
    links = [(f"runs/{name}/evaluation/report.html", title) for name, title in titles.items()]
    links.append(("comparison/comparison.html", "the comparison"))
    heads = ("model", "accuracy", "balanced accuracy", "minutes of training")
    return Section("models", "Two models", text, heads, rows, (), links)


def _misses(_: Case, results: dict[str, Any]) -> Section:
    metrics = results["evaluate"]["lite0-defect"]
    point = metrics["operating_point"]
    rows = []
    for title, key in (("most probable class", "at_argmax"), ("chosen threshold", "at_threshold")):
        if point.get(key):
            rates = point[key]
            rows.append(
                (title, _interval(rates["miss_rate"]), _interval(rates["false_alarm_rate"]))
            )
    text = (
        "All six kinds merged into one class, without training. The threshold is the one that "
        f"reaches a recall of {_percent(point['wanted_recall'])} on the validation patches."
    )
    links = [("runs/lite0-defect/evaluation/report.html", "the evaluation")]
    heads = ("decision", "missed defects", "false alarms")
    return Section("misses", "Misses and false alarms", text, heads, rows, (), links)


def _costs(_: Case, results: dict[str, Any]) -> Section:
    report = results["compress"]
    rows = [
        (
            model["title"],
            _interval(model["accuracy"]),
            f"{model['bytes'] / 1e6:.2f}",
            f"{model['macs'] / 1e6:.1f}",
            f"{model['latency_1']['p50']:.2f}",
            f"{model['latency_32']['speedup']:.2f}",
        )
        for model in report["models"]
    ]
    text = (
        "Half of the multiply-adds pruned by a Taylor criterion, then taught by the unpruned "
        "network, then 8-bit integers; ONNX Runtime runs all four on the same images."
    )
    heads = ("model", "accuracy", "MB", "million MACs", "ms an image", "times as fast, batch of 32")
    links = [("compression/report.html", "the comparison")]
    return Section("costs", "Smaller", text, heads, rows, (), links)


def _lines(_: Case, results: dict[str, Any]) -> Section:
    scan = results["scan"]
    rows = [
        (
            picture["name"],
            str(picture["defects"]),
            f"{picture['score']:.3f}",
            "right" if picture["is_right"] else "wrong",
        )
        for picture in scan["pictures"]
        if picture["is_judged"]
    ]
    tiles = scan["pictures"][0]["tiles"]
    text = (
        f"Pictures of 4096 x 1024 pixels, put together from good steel and defects, are cut into "
        f"{tiles:,} overlapping tiles; a picture's score is the greatest probability of a defect "
        f"in any. The threshold, {scan['threshold']:.3f}, is the best one of the first half of "
        f"the pictures; these are the second half. {scan['seen']} of their {scan['defects']} "
        f"defects are seen. One wrong tile of {tiles:,} makes a picture without defects a false "
        "alarm."
    )
    pictures = []
    bad = next((p for p in scan["pictures"] if p["is_judged"] and p["defects"]), None)
    if bad is not None:
        image = cv2.imread(bad["map"])
        pictures.append(("map.jpg", _narrow(image), f"{bad['name']}: {bad['defects']} defects"))
    heads = ("picture", "defects", "score", "decision")
    return Section("lines", "A line-scan camera", text, heads, rows, pictures)


def _service(_: Case, results: dict[str, Any]) -> Section:
    watch = results["watch"]
    windows = watch["drift"]["windows"]
    rows = [
        ("accuracy before the light changes", _percent(watch["served"]["before"])),
        ("after", _percent(watch["served"]["later"])),
        ("windows with an alarm", f"{sum(w['alarm'] for w in windows)} of {len(windows)}"),
    ]
    links = [("drift/report.html", "drift")]
    text = "The pruned 8-bit model is served; the light changes; "
    gate = watch["gate"]
    if gate is None:
        text += "drift gives no alarm, so nothing is learned."
        return Section("service", "The service", text, ("measure", "value"), rows, (), links)
    text += "drift alarms; a person labels; the model learns on; "
    rows += [
        ("patches that people label", str(watch["labeled"])),
        ("new model, changed light", _change(gate["data"]["new"]["accuracy"])),
        ("new model, old light", _change(gate["data"]["old"]["accuracy"])),
        *(
            (f"gate, {rule['text']}", "kept" if rule["passed"] else "broken")
            for rule in gate["rules"]
        ),
    ]
    rollout = watch["rollout"]
    if rollout is None:
        text += "the gate does not let it pass."
    else:
        end = "becomes all of the traffic" if rollout["status"] == DONE else "is rolled back"
        text += f"the gate lets it pass; a canary {end}."
        rows += _traffic(rollout, watch["test"])
        links.append(("rollout/report.html", "the rollout"))
    if watch["test"] is not None:
        links.append(("abtest/report.html", "the A/B test"))
    patch = 100 / gate["data"]["old"]["images"]
    text += f" Under the old light, one of the gate's test patches is {patch:.1f} points."
    return Section("service", "The service", text, ("measure", "value"), rows, (), links)


def _traffic(rollout: dict[str, Any], test: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Returns the rows of a rollout and, if it had half of the traffic, of the A/B test."""
    rows = [
        ("traffic of the new version", f"{rollout['weights'][NEW]:g} %"),
        ("failed requests", f"{rollout['failed']:,} of {sum(rollout['answers'].values()):,}"),
    ]
    if test is None:
        return rows
    verdict = f"{test['verdict']['decision']}, {_effect(test['measure'])}"
    return [("A/B test at half of the traffic", verdict), *rows]


def _minutes(case: Case, _: dict[str, Any]) -> Section:
    rows = [(name.replace("_", " "), f"{minutes:.1f}") for name, minutes in case.minutes.items()]
    text = (
        "What each stage took, interrupted attempts included; those of the service are parts of "
        "the last line."
    )
    return Section("minutes", "Minutes", text, ("stage", "minutes"), rows)


def _sheet(case: Case) -> np.ndarray:
    """Returns a picture with a row of training patches for each class."""
    rows = []
    for folder in sorted((case.patches / "train").iterdir()):
        files = sorted(folder.glob("*.png"))
        picked = [files[i] for i in np.linspace(0, len(files) - 1, SAMPLES).astype(int)]
        rows.append(np.hstack([cv2.imread(str(file)) for file in picked]))
    return np.vstack(rows)


def _narrow(image: np.ndarray) -> np.ndarray:
    scale = min(1.0, WIDTH / image.shape[1])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _uri(image: np.ndarray) -> str:
    return data_uri(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), "jpeg"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(value: dict[str, float]) -> str:
    return f"{_percent(value['value'])} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _change(pair: Sequence[float]) -> str:
    return f"{_percent(pair[0])} → {_percent(pair[1])}"


def _effect(measure: dict[str, Any]) -> str:
    low = measure["sequence"]["low"]
    high = measure["sequence"]["high"]
    return f"{100 * measure['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
