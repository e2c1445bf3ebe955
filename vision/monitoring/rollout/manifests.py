"""The same plan for controllers in Kubernetes: Argo Rollouts and KServe.

They compare what Prometheus has by fixed thresholds at the moments that they look, without tests;
guardrails from the prediction log are only in our own controller.
"""

import re
from typing import Any

from vision.errors import UserError
from vision.monitoring.rollout.plan import Plan

ROWS_TAKE = 600.0  # seconds of a step whose window is a number of requests: these have only times
# names of resources in Kubernetes: labels of RFC 1123, and "-guardrails" must fit in as well
NAME = re.compile("[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")
VERSION = re.compile("[A-Za-z0-9._-]+")
PERIOD = 60  # seconds between measurements
LABELS = 'model="{{args.model}}",version="{{args.%s}}"'


def write(kind: str, plan: Plan, prometheus: str) -> str:
    """Returns manifests as YAML; raises `UserError` for names that cannot be in them.

    Args:
        kind: "argo" or "kserve".
        plan: the rollout.
        prometheus: URL of a Prometheus that reads the servers' metrics.
    """
    import yaml

    for flag, version in (("--from", plan.old), ("--to", plan.new)):
        if not VERSION.fullmatch(version):
            raise UserError(
                f"{flag} {version} cannot be in a manifest: use letters, digits, '.', '_' and '-'"
            )
    documents = argo(plan, prometheus) if kind == "argo" else [kserve(plan)]
    texts = [yaml.safe_dump(document, sort_keys=False, width=1000) for document in documents]
    return _comment(kind, plan) + "---\n".join(texts)


def argo(plan: Plan, prometheus: str) -> list[dict[str, Any]]:
    """Returns an AnalysisTemplate and a Rollout of Argo (argoproj.io/v1alpha1)."""
    name = f"{_name(plan)}-guardrails"
    window = plan.window.seconds or ROWS_TAKE
    template = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": name},
        "spec": {
            "args": [{"name": arg} for arg in ("model", "old", "new")],
            "metrics": _metrics(plan, prometheus, window),
        },
    }
    analysis = {
        "templates": [{"templateName": name}],
        "args": [
            {"name": "model", "value": plan.model},
            {"name": "old", "value": plan.old},
            {"name": "new", "value": plan.new},
        ],
    }
    steps: list[dict[str, Any]] = []
    for percent in plan.steps:
        # whole percentages only, and 100 comes at the end by itself
        if percent < 100:
            steps += [{"setWeight": max(1, round(percent))}, {"analysis": analysis}]
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": _name(plan)},
        "spec": {
            "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vision-server"},
            "strategy": {"canary": {"steps": steps}},
        },
    }
    return [template, rollout]


def kserve(plan: Plan) -> dict[str, Any]:
    """Returns an InferenceService of KServe (serving.kserve.io/v1beta1) at the first step."""
    storage = {"name": "STORAGE_URI", "value": f"pvc://models/releases/{plan.new}"}
    container = {
        "name": "kserve-container",
        "image": "registry.example.com/vision-server:1",
        "args": ["--models=/mnt/models", "--http-port=8080", "--grpc-port=0"],
        "env": [storage, {"name": "PROTOCOL", "value": "v2"}],
        "ports": [{"name": "http1", "containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": _name(plan)},
        "spec": {
            "predictor": {
                "canaryTrafficPercent": max(1, round(plan.steps[0])),
                "containers": [container],
            }
        },
    }


def _name(plan):
    """Returns the model's name as Kubernetes has it."""
    name = plan.model.lower().replace("_", "-")
    if not NAME.fullmatch(name):
        raise UserError(
            f"--model {plan.model} cannot be a name in Kubernetes: it must be at most 52 letters "
            "a-z, digits and '-', and begin and end with a letter or digit"
        )
    return name


def _metrics(plan, prometheus, window):
    """Returns the metrics of an analysis.

    One that is neither a success nor a failure, such as NaN without requests, pauses the rollout.
    """
    limits = plan.limits
    span = f"{window:.0f}s"
    conditions = {
        "answers": (
            f'sum(increase(vision_requests_total{{{LABELS % "new"},code=~"200|OK"}}[{span}]))',
            f"result[0] >= {plan.min_answers}",
            "false",
        ),
        "errors": (
            f"{_failing('new', span)} - {_failing('old', span)}",
            f"result[0] <= {limits.errors:g}",
            f"result[0] > {limits.errors:g}",
        ),
        "p99": (
            f"{_p99('new', span)} / {_p99('old', span)}",
            f"result[0] <= {limits.p99:g}",
            f"result[0] > {limits.p99:g}",
        ),
        "drift": (
            f"max(vision_drift_alarm{{{LABELS % 'new'}}} unless on (feature) "
            f"(vision_drift_alarm{{{LABELS % 'old'}}} == 1)) or vector(0)",
            "result[0] == 0",
            "result[0] > 0",
        ),
    }
    names = [name for name in conditions if name == "answers" or name in plan.guards]
    return [
        {
            "name": name,
            "initialDelay": span,
            "interval": f"{PERIOD}s",
            "count": 3,
            "successCondition": f"len(result) > 0 && {conditions[name][1]}",
            "failureCondition": (
                "false"
                if conditions[name][2] == "false"
                else f"len(result) > 0 && {conditions[name][2]}"
            ),
            "failureLimit": 1,
            "inconclusiveLimit": 1,
            "provider": {"prometheus": {"address": prometheus, "query": conditions[name][0]}},
        }
        for name in names
    ]


def _failing(version, span):
    """Returns the query of the share of requests without an answer."""
    labels = LABELS % version
    failed = f"(sum(increase(vision_failures_total{{{labels}}}[{span}])) or vector(0))"
    answered = f'sum(increase(vision_requests_total{{{labels},code=~"200|OK"}}[{span}]))'
    return f"{failed} / ({failed} + {answered})"


def _p99(version, span):
    """Returns the query of the 99th percentile of the answers' times."""
    series = f'vision_stage_seconds_bucket{{{LABELS % version},stage="total"}}'
    return f"histogram_quantile(0.99, sum by (le) (rate({series}[{span}])))"


def _comment(kind, plan):
    """Returns what a reader of the manifest must know."""
    steps = ", ".join(f"{step:g}" for step in plan.steps)
    lines = {
        "argo": [
            f"Rollout of {plan.model} from {plan.old} to {plan.new} by {steps} %, with Argo.",
            "vision-server is the Deployment of scripts/deploy/kubernetes/server.yaml. Without",
            "spec.strategy.canary.trafficRouting the weights are shares of the replicas.",
            "An analysis that fails rolls back; one without enough requests pauses the rollout.",
        ],
        "kserve": [
            f"Canary of {plan.model} {plan.new} with KServe, which does not judge it: raise",
            f"canaryTrafficPercent by {steps}, and set it to 0 to take the traffic back.",
            "scripts/deploy/kubernetes/inference_service.yaml has limits, probes and security.",
        ],
    }
    return "".join(f"# {line}\n" for line in lines[kind])
