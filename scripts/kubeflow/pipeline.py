"""The way back as Kubeflow pipelines: collect, and once people have labeled, learn.

    collect  images of a server's prediction log that are worth labeling
    learn    label -> retrain -> gate -> export, which fails if the gate does not let the model pass

Each step is a command of this project, in an image that has it. `scripts.kubeflow.compile` writes
the pipelines as YAML. Kubeflow copies the source of a step's function into it, so that a function
imports what it needs itself.
"""

from collections.abc import Callable
from typing import NamedTuple

from kfp import dsl

FLAGS = (
    "--config.continual.memory=all --config.objective.options.lwf=0 "
    "--config.objective.options.new_share=0.5"
)
RULES = "--max-loss old=0.01 --min-gain new=0"


def collect_images(
    bundle: str,
    log: str,
    count: int,
    earlier: str,
    flags: str,
    collection: dsl.Output[dsl.Dataset],
):
    import shlex
    import subprocess
    import sys

    command = [sys.executable, "-m", "vision.monitoring.collect", f"--bundle={bundle}"]
    command += [f"--log={log}", f"--count={count}", f"--out={collection.path}"]
    command.append(f"--earlier={earlier}")
    subprocess.run([*command, *shlex.split(flags)], check=True)


def take_back_labels(collection: str, answers: str, labeled: dsl.Output[dsl.Dataset]):
    import shutil
    import subprocess
    import sys

    shutil.copytree(collection, labeled.path, dirs_exist_ok=True)
    command = [sys.executable, "-m", "vision.monitoring.collect", f"--labeled={answers}"]
    subprocess.run([*command, f"--out={labeled.path}"], check=True)


def retrain(
    previous: str,
    labeled: dsl.Input[dsl.Dataset],
    config: str,
    flags: str,
    model: dsl.Output[dsl.Model],
):
    import shlex
    import subprocess
    import sys

    source = f"csv:{labeled.path}/labeled.csv"
    command = [sys.executable, "-m", "vision.main", f"--config={config}:{previous}:{source}"]
    command += [f"--workdir={model.path}", *shlex.split(flags)]
    subprocess.run(command, check=True)


def gate(
    previous: str,
    labeled: dsl.Input[dsl.Dataset],  # not named, but what the model was trained on
    model: dsl.Input[dsl.Model],
    old: str,
    new: str,
    flags: str,
    comparison: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Verdict", [("passed", bool)]):
    import collections
    import json
    import pathlib
    import shlex
    import shutil
    import subprocess
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "gate")
        command = [sys.executable, "-m", "vision.evaluation.gate", previous, model.path]
        command += [f"--data=old={old}", f"--data=new={new}", f"--out={out}", *shlex.split(flags)]
        code = subprocess.run(command).returncode
        if code not in (0, 1):
            raise SystemExit(code)
        shutil.copy(out / "gate.md", comparison.path)
        record = json.loads((out / "gate.json").read_text())
    for name, data in record["data"].items():
        for side, accuracy in zip(("before", "after"), data["accuracy"], strict=True):
            metrics.log_metric(f"accuracy on {name} {side}", accuracy)
    return collections.namedtuple("Verdict", ["passed"])(code == 0)


def export(model: dsl.Input[dsl.Model], passed: bool, bundle: dsl.Output[dsl.Model]):
    import subprocess
    import sys

    if not passed:  # here and not in the gate: a step that fails shows no comparison
        sys.exit("the gate does not let this model pass: see its comparison")
    command = [sys.executable, "-m", "vision.export", f"--workdir={model.path}"]
    subprocess.run([*command, f"--out={bundle.path}"], check=True)


def pipelines(image: str) -> dict[str, Callable]:
    """Returns {name: pipeline}.

    Args:
        image: container image with this project and kfp, in which the steps run.
    """

    def step(function):
        return dsl.component(function, base_image=image, install_kfp_package=False)

    steps = {each: step(each) for each in (collect_images, take_back_labels, retrain, gate, export)}

    @dsl.pipeline(name="vision-collect", description="Images that are worth labeling.")
    def collect(
        bundle: str, log: str, count: int = 200, earlier: str = "", flags: str = ""
    ) -> dsl.Dataset:
        task = steps[collect_images](
            bundle=bundle, log=log, count=count, earlier=earlier, flags=flags
        )
        task.set_caching_options(False)  # the log has grown since
        return task.outputs["collection"]

    @dsl.pipeline(name="vision-learn", description="A model learns from labels, and is judged.")
    def learn(
        previous: str,
        collection: str,
        answers: str,
        old: str,
        new: str,
        config: str = "configs/incremental.py",
        flags: str = FLAGS,
        rules: str = RULES,
    ):
        labels = steps[take_back_labels](collection=collection, answers=answers)
        labeled = labels.outputs["labeled"]
        training = steps[retrain](previous=previous, labeled=labeled, config=config, flags=flags)
        model = training.outputs["model"]
        verdict = steps[gate](
            previous=previous, labeled=labeled, model=model, old=old, new=new, flags=rules
        )
        # no dsl.If: kfp's own runner cannot resolve it, and a refusal should be seen
        steps[export](model=model, passed=verdict.outputs["passed"])

    return {"collect": collect, "learn": learn}
