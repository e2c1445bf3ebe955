"""Manifests of rollouts against the schemas that their controllers publish, and Prometheus' own
answers to their queries."""

import ast
import json
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

from vision.monitoring.rollout import manifests
from vision.monitoring.rollout.plan import Plan

PLAN = Plan("pets", "3", "4", steps=(0.5, 5.0, 25.0, 100.0))
# The types are made from the CRDs of Argo Rollouts 1.5.
PACKAGES = ("@kubernetes-models/argo-rollouts@0.3.2", "typescript@5.9.3")
KSERVE = "kserve==0.21.0"
TYPES = "@kubernetes-models/argo-rollouts/argoproj.io/v1alpha1"
VALIDATE = f"""
const kinds = require("{TYPES}");
for (const d of JSON.parse(require("fs").readFileSync(0))) new kinds[d.kind](d).validate();
"""


def ran(command, folder, **options):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A folder with the packages of `PACKAGES`."""
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    done = ran(["npm", "install", "--no-audit", "--no-fund", "--silent", *PACKAGES], folder)
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr[:300]}")
    return folder


def type_errors(node, documents):
    """Returns what TypeScript says of documents, unknown fields too; "" if all is well."""
    lines = [f'import type {{ IRollout, IAnalysisTemplate }} from "{TYPES}";']
    lines += [
        f"export const d{i}: I{document['kind']} = {json.dumps(document)};"
        for i, document in enumerate(documents)
    ]
    (node / "check.ts").write_text("\n".join(lines))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext"]
    return ran(["node_modules/.bin/tsc", *options, "check.ts"], node).stdout


def test_argos_manifests_agree_with_its_schema(node):
    documents = list(yaml.safe_load_all(manifests.write("argo", PLAN, "http://prometheus:9090")))
    assert type_errors(node, documents) == ""
    done = ran(["node", "-e", VALIDATE], node, input=json.dumps(documents))
    assert done.returncode == 0, done.stderr
    documents[0]["spec"]["metrics"][0]["failuresLimit"] = 1
    assert "failuresLimit" in type_errors(node, documents)
    documents[1]["spec"]["strategy"]["canary"]["steps"][0]["setWeight"] = 0.5
    done = ran(["node", "-e", VALIDATE], node, input=json.dumps(documents))
    assert "setWeight must be integer" in done.stderr


def test_kserves_manifest_agrees_with_its_sdk(tmp_path):
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", KSERVE]
    done = ran(pip, tmp_path)
    if done.returncode:
        pytest.skip(f"pip cannot download: {done.stderr[:300]}")
    (wheel,) = tmp_path.glob("*.whl")
    (document,) = yaml.safe_load_all(manifests.write("kserve", PLAN, ""))
    with zipfile.ZipFile(wheel) as archive:
        service = fields_of(archive, "v1beta1_inference_service")
        spec = fields_of(archive, "v1beta1_inference_service_spec")
        predictor = fields_of(archive, "v1beta1_predictor_spec")
    assert document.keys() <= service.keys() and document["spec"].keys() <= spec.keys()
    assert document["spec"]["predictor"].keys() <= predictor.keys()
    assert predictor["canaryTrafficPercent"] == "int"
    assert document["spec"]["predictor"]["canaryTrafficPercent"] == 1
    assert predictor["containers"] == "list[V1Container]"


def fields_of(archive, name):
    """Returns {field in JSON: type} of a model of KServe's SDK."""
    tree = ast.parse(archive.read(f"kserve/models/{name}.py"))
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") in ("openapi_types", "attribute_map")
    }
    kinds = tables["openapi_types"]
    return {name: kinds[attribute] for attribute, name in tables["attribute_map"].items()}


def test_the_queries_have_the_values_that_the_conditions_judge(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("no promtool")
    template, _ = manifests.argo(PLAN, "http://prometheus:9090")
    rules = []
    for metric in template["spec"]["metrics"]:
        query = metric["provider"]["prometheus"]["query"]
        for name, value in (("model", "pets"), ("old", "3"), ("new", "4")):
            query = query.replace(f"{{{{args.{name}}}}}", value)
        rules.append({"record": f"test:{metric['name']}", "expr": query})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))
    labels = 'model="pets",version="%s"'
    series = []
    for version, fails in (("3", False), ("4", True)):
        own = labels % version
        series += [
            (f'vision_requests_total{{{own},code="200"}}', "0+90x30"),
            *([(f'vision_failures_total{{{own},error="a"}}', "0+10x30")] if fails else []),
            (f'vision_stage_seconds_bucket{{{own},stage="total",le="0.1"}}', "0+70x30"),
            (f'vision_stage_seconds_bucket{{{own},stage="total",le="+Inf"}}', "0+90x30"),
        ]
    series.append((f'vision_drift_alarm{{{labels % "3"},feature="size"}}', "1+0x30"))
    series.append((f'vision_drift_alarm{{{labels % "4"},feature="size"}}', "1+0x30"))
    expected = {"answers": 900, "errors": 0.1, "p99": 1, "drift": 0}
    test = {
        "rule_files": ["rules.yml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [
                    {
                        "expr": f"round(test:{name}, 0.001)",
                        "eval_time": "25m",
                        "exp_samples": [{"value": value, "labels": "{}"}],
                    }
                    for name, value in expected.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = ran(["promtool", "test", "rules", "test.yml"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
