"""What scripts/deploy gives for the server: manifests that fit it, an image's commands, a
repository for Triton."""

import importlib.metadata
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tests.support.answering import answer
from tests.support.drifting import draw
from tests.support.tiny_bundle import write_bundle
from vision.reference import features, quality, statistics
from vision.reference.sketch import sketch
from vision.serving.settings import Settings, from_flags

DEPLOY = REPOSITORY / "scripts" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def documents(name):
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def image_of_docker():
    """The instructions of the Dockerfile, [(name, rest)]."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return [
        tuple(line.split(maxsplit=1))
        for line in text.splitlines()
        if line and not line.startswith("#")
    ]


@pytest.fixture(scope="module")
def server():
    return {document["kind"]: document for document in documents("server.yaml")}


def containers():
    (service,) = documents("inference_service.yaml")
    predictor = service["spec"]["predictor"]
    deployment = next(d for d in documents("server.yaml") if d["kind"] == "Deployment")
    template = deployment["spec"]["template"]["spec"]
    return [(predictor, predictor["containers"][0]), (template, template["containers"][0])]


@pytest.mark.parametrize(("pod", "container"), containers(), ids=["kserve", "plain"])
def test_a_container_fits_the_server(pod, container):
    flags = dict(image_of_docker())["ENTRYPOINT"]
    # names of flags, and their types
    settings = from_flags([*yaml.safe_load(flags)[3:], *container["args"]], "")
    assert settings.host == "0.0.0.0" and settings.admin_port == 0
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.http_port in ports.values() and (settings.grpc_port or 8080) in ports.values()
    assert settings.threads == int(container["resources"]["limits"]["cpu"])
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")
    }
    assert paths == {"readinessProbe": "/v2/health/ready", "livenessProbe": "/v2/health/live"}
    for probe in paths:
        assert container[probe]["httpGet"]["port"] in (settings.http_port, "http")
    secure = container["securityContext"]
    assert secure["allowPrivilegeEscalation"] is False and secure["readOnlyRootFilesystem"] is True
    assert secure["capabilities"] == {"drop": ["ALL"]}
    user = (secure if "runAsUser" in secure else pod["securityContext"])["runAsUser"]
    assert f"{user}:{user}" == dict(image_of_docker())["USER"]
    mounted = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= mounted


def test_the_parts_belong_together(server):
    spec = server["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"].items()
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        selector = server[kind]["spec"].get("selector") or server[kind]["spec"]["podSelector"]
        assert selector.get("matchLabels", selector).items() <= labels, kind
    assert spec["selector"]["matchLabels"].items() <= labels
    target = server["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (
        "Deployment",
        server["Deployment"]["metadata"]["name"],
    )
    assert "replicas" not in spec  # or each `apply` would undo what the autoscaler did
    pod = spec["template"]["spec"]
    ports = {port["name"] for port in pod["containers"][0]["ports"]}
    assert {port["targetPort"] for port in server["Service"]["spec"]["ports"]} == ports
    wait = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > wait + Settings().drain
    claim = next(
        v["persistentVolumeClaim"]["claimName"]
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    )
    assert claim == server["PersistentVolumeClaim"]["metadata"]["name"]


def test_kserve_is_told_what_it_looks_for():
    (service,) = documents("inference_service.yaml")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = service["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container"
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["PROTOCOL"] == "v2" and re.match(r"\w+://", environment["STORAGE_URI"])
    assert "--models=/mnt/models" in container["args"] and len(container["ports"]) == 1
    assert 0 < predictor["canaryTrafficPercent"] < 100
    assert (
        predictor["scaleMetric"] == "concurrency"
        and predictor["minReplicas"] <= predictor["maxReplicas"]
    )


@pytest.mark.parametrize("name", sorted(path.name for path in KUBERNETES.iterdir()))
def test_kubernetes_knows_the_fields(name):
    """By its published schemas, where they are installed: pip install kubernetes-validate."""
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents(name):
        if "k8s.io" in document["apiVersion"] or "." not in document["apiVersion"]:
            validate.validate(document, "1.30", strict=True)


def test_the_image_copies_what_there_is():
    steps = image_of_docker()
    for kind, rest in steps:
        if kind == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (REPOSITORY / source).exists(), source
    assert steps[-1][0] == "ENTRYPOINT" and [kind for kind, _ in steps].count("FROM") == 2
    # a flag behind its name
    settings = from_flags([*yaml.safe_load(dict(steps)["ENTRYPOINT"])[3:], "--threads=4"], "")
    assert (settings.models, settings.threads) == ("/models", 4)


IMPORTS = """
import sys
hidden = set(sys.argv[1].split())

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name in hidden:
            raise ModuleNotFoundError(f"{name} is not among the requirements", name=name)

sys.meta_path.insert(0, Wall())
import vision.serving.server, vision.serving.__main__
print(*sorted({"jax", "flax", "onnxruntime", "starlette"} & sys.modules.keys()))

# what a terminal and a log are shown while the models are loaded
from vision.support.progress import Progress
with Progress("loading", 10, "models") as work:
    work.advance()
    work.row("", work.began + 5, 80), work.row("", work.began + 5, 20), work.line("", work.began)

# what the thread of the prediction log computes
import json
import numpy as np
from vision.reference import quality, statistics, verdict, window

with np.load(sys.argv[2]) as file:
    reference = json.loads(str(file["reference"]))
    filling = window.Window(statistics.parse(reference, 4, "bundle.json"), 0)
    filling.add(*(file[name] for name in ("values", "classes", "sketches", "seconds")))
    estimate = quality.Estimate(quality.parse(reference, "abcd", "bundle.json"))
    estimate.add(file["values"][:, 7])
verdict.assess(statistics.parse(reference, 4, "bundle.json"), filling)
estimate.accuracies()
"""


def closure(requirements):
    """Returns the names of the installed distributions that requirements name, and of those that
    these need."""
    seen = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        if (key := (canonicalize_name(requirement.name), *sorted(requirement.extras))) in seen:
            continue
        seen.add(key)
        for text in importlib.metadata.requires(requirement.name) or []:
            dependency = Requirement(text)
            if not dependency.marker or any(
                dependency.marker.evaluate({"extra": extra}) for extra in requirement.extras | {""}
            ):
                todo.append(dependency)
    return {name for name, *_ in seen}


def hidden_without(requirements):
    """Returns the modules that are installed here, but that requirements do not bring."""
    needed = closure(requirements)
    return [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if module != "vision" and not {canonicalize_name(owner) for owner in owners} & needed
    ]


def write_answers(path):
    """Writes a bundle's reference and rows of answers: what the server compares."""
    random = np.random.default_rng(0)
    looks, probabilities, embeddings = draw(200, random)
    reference = {
        "drift": statistics.describe(looks, probabilities, embeddings),
        "quality": quality.describe(*answer(200, random)),
    }
    best, numbers = features.outputs(probabilities)
    np.savez(
        path,
        reference=json.dumps(reference),
        values=np.concatenate([looks, numbers], 1),
        classes=best,
        sketches=sketch(embeddings),
        seconds=np.arange(200.0),
    )


def test_the_requirements_are_enough(tmp_path):
    """The server is imported, and compares a window, with only them and what they need in turn."""
    lines = (DEPLOY / "requirements.txt").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    needed = closure(requirements)
    assert not needed & {"jax", "flax", "fastapi", "pandas", "scikit-learn", "scipy"}
    hidden = hidden_without(requirements)
    assert "scipy" in hidden  # quality.describe needs it, which only an export calls
    write_answers(tmp_path / "answers.npz")
    command = [sys.executable, "-c", IMPORTS, " ".join(hidden), str(tmp_path / "answers.npz")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "starlette" and "jax" not in done.stdout.split()
    pinned = re.findall(r"^([\w-]+)==", (REPOSITORY / "constraints.txt").read_text(), re.M)
    assert {Requirement(text).name for text in requirements} <= {
        *pinned,
        *(n.replace("-", "_") for n in pinned),
    }


QUALITY = """
import vision.monitoring.quality.__main__, vision.monitoring.quality.exporter
from vision.support.progress import Progress
with Progress("reading", 10, "lines") as work:
    work.advance()
    work.row("", work.began + 5, 80), work.row("", work.began + 5, 20), work.line("", work.began)
"""


def test_the_image_of_the_exporter_has_what_it_needs():
    text = (REPOSITORY / "scripts" / "monitoring" / "Dockerfile").read_text()
    words = re.search(r"constraints.txt \\\n (.*)\n", text)[1].split()
    assert "scipy" in words
    code = IMPORTS.partition("import vision")[0] + QUALITY  # behind the same wall
    command = [sys.executable, "-c", code, " ".join(hidden_without(words))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def triton(tmp_path, *argv):
    command = [sys.executable, str(DEPLOY / "triton_repository.py"), *map(str, argv)]
    return subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)}
    )


def config_of(folder):
    """Returns a config.pbtxt as Triton's schema reads it, in a process of its own: it stands no
    other beside it."""
    code = (
        "import sys\nfrom google.protobuf import json_format, text_format\n"
        "from tritonclient.grpc import model_config_pb2\n"
        "found = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())\n"
        "print(json_format.MessageToJson(found, preserving_proto_field_name=True))"
    )
    command = [sys.executable, "-c", code, str(folder / "config.pbtxt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_a_repository_for_triton(tmp_path):
    bundle = write_bundle(
        tmp_path / "bundle",
        ["a cat", "a\ndog", "ein Zebra"],
        side=8,
        channels=3,
        model={"heat": True},
    )
    argv = (
        "--bundle",
        bundle,
        "--out",
        "triton/pets",
        "--version=3",
        "--max-batch=16",
        "--max-delay=0.005",
    )
    done = triton(tmp_path, *argv)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "triton" / "pets"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        *("3/model.onnx", "config.pbtxt", "labels.txt")
    ]
    assert (folder / "labels.txt").read_text() == "a cat\na dog\nein Zebra\n"
    config = config_of(folder)
    assert (config["name"], config["platform"], config["max_batch_size"]) == (
        "pets",
        "onnxruntime_onnx",
        16,
    )
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": "5000"}
    session = onnxruntime.InferenceSession(folder / "3" / "model.onnx")
    (given,) = config["input"]
    assert given == {"name": "images", "data_type": "TYPE_UINT8", "dims": ["8", "8", "3"]}
    outputs = session.run(
        [output["name"] for output in config["output"]],
        {"images": np.zeros((2, 8, 8, 3), np.uint8)},
    )
    assert [output["dims"] for output in config["output"]] == [
        [str(n) for n in array.shape[1:]] for array in outputs
    ]
    assert {output["data_type"] for output in config["output"]} == {"TYPE_FP32"}
    assert [output["name"] for output in config["output"]] == [
        "probabilities",
        "embedding",
        "heatmap",
    ]
    assert (
        config["output"][0]["label_filename"] == "labels.txt"
        and "label_filename" not in config["output"][1]
    )


def test_a_fixed_batch_for_triton(tmp_path):
    bundle = write_bundle(tmp_path / "bundle", side=8, channels=1, model={"batch": 4})
    assert triton(tmp_path, "--bundle", bundle, "--out", "triton/digits").returncode == 0
    config = config_of(tmp_path / "triton" / "digits")
    assert "max_batch_size" not in config and "dynamic_batching" not in config
    assert config["input"][0]["dims"] == ["4", "8", "8", "1"] and config["output"][0]["dims"] == [
        "4",
        "10",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bundle=nowhere"], "there is no bundle nowhere"),
        (["--bundle=BUNDLE"], "has changed since it was exported"),
        (["--bundle=BUNDLE", "--max-batch=0"], "--max-batch must be at least 1"),
    ],
)
def test_mistakes(argv, message, tmp_path):
    write_bundle(tmp_path / "BUNDLE")
    (tmp_path / "BUNDLE" / "model.onnx").write_bytes(b"something else")
    done = triton(tmp_path, *argv, "--out=triton/pets")
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "triton").exists()


def test_the_commands_of_the_page(tmp_path):
    """Each flag of the server and of the script that the page names is there."""
    page = (DEPLOY / "README.md").read_text()
    for name, command in re.findall(
        r"^python (?:-m )?(vision\.serving|scripts/deploy/triton_repository\.py) (.*)$", page, re.M
    ):
        flags = [
            word.split("=")[0]
            for word in shlex.split(command, comments=True)
            if word.startswith("--")
        ]
        if name.startswith("vision"):
            assert {flag.removeprefix("--").replace("-", "_") for flag in flags} <= set(
                Settings.__dataclass_fields__
            )
        else:
            text = (DEPLOY / "triton_repository.py").read_text()
            assert flags and all(f'"{flag}"' in text for flag in flags)
