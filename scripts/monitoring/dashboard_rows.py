"""The rows of the dashboard: which queries are drawn, in which unit, with which thresholds.

They answer, from above: is something wrong now, who asks and what fails, how long it takes, does
the input differ from the training data, is the model still right, what is running. Dashed lines are
the thresholds of rules/alerts.yml. Names with colons are made by rules/recording.yml.
"""

from scripts.monitoring.panels import (
    GREEN,
    ORANGE,
    RED,
    Limit,
    Query,
    bars,
    dashed,
    heat,
    lines,
    listing,
    logarithmic,
    number,
    stacked,
    states,
)

DAY = 86_400
MODEL = 'model=~"$model"'
VERSION = f'{MODEL}, version=~"$version"'
NAME = "{{model}} {{version}}"


def overview():
    """Yields the panels that say whether something is wrong now."""
    yield number(
        "Servers ready",
        "Replicas that take requests.",
        "sum(vision_ready) or vector(0)",
        "short",
        [Limit(1, GREEN)],
        base=RED,
    )
    yield number(
        "Alerts",
        "Alerts that fire, pages and tickets.",
        'count(ALERTS{alertname=~"Vision.+", alertstate="firing"}) or vector(0)',
        "short",
        [Limit(1, ORANGE)],
    )
    yield number(
        "Requests",
        "Requests a second, failed ones too, averaged over five minutes.",
        f"sum(model:vision_requests:rate5m{{{MODEL}}})",
        "reqps",
    )
    yield number(
        "Failing",
        "Share of the requests of five minutes that the server failed to answer; the worst model.",
        f"max(model:vision_request_errors:ratio_rate5m{{{MODEL}}})",
        "percentunit",
        [Limit(0.01, ORANGE), Limit(0.05, RED)],
        missing="no traffic",
    )
    yield number(
        "p99",
        "99 % of the requests of the last five minutes took less; the slowest version.",
        f'max(model_version_stage:vision_stage_seconds:p99_5m{{stage="total", {VERSION}}})',
        "s",
        [Limit(0.25, ORANGE), Limit(0.5, RED)],
        missing="no traffic",
    )
    yield number(
        "Drifted features",
        "Features whose latest window has drifted, of all versions.",
        f"sum(model_version_feature:vision_drift_alarm:max{{{VERSION}}})",
        "short",
        [Limit(1, ORANGE)],
        missing="not measured",
    )
    yield number(
        "Accuracy",
        "By the labels that have arrived; the worst version.",
        f"min(vision_quality_accuracy{{{VERSION}}})",
        "percentunit",
        missing="no labels",
    )
    yield number(
        "Age of the model",
        "Since the bundle of the version with most requests was written; the oldest model.",
        f"max(model:vision_version:age_seconds{{{MODEL}}})",
        "s",
        [Limit(60 * DAY, ORANGE), Limit(90 * DAY, RED)],
    )


def traffic():
    """Yields the panels on who asks, and what fails."""
    yield stacked(
        lines(
            "Requests by code",
            "HTTP status, or the code of gRPC. 5xx, INTERNAL and UNAVAILABLE are the server's "
            "faults; 429 is a full queue; other 4xx are the clients'.",
            [
                Query(
                    f"sum by (protocol, code) (rate(vision_requests_total{{{MODEL}}}"
                    "[$__rate_interval]))",
                    "{{protocol}} {{code}}",
                )
            ],
            "reqps",
        )
    )
    yield lines(
        "Share of the requests that fail",
        "More than 5 % in five minutes is a page, more than 1 % in an hour a ticket.",
        [
            Query(f"model:vision_request_errors:ratio_rate5m{{{MODEL}}}", "{{model}}, 5 min"),
            Query(f"model:vision_request_errors:ratio_rate1h{{{MODEL}}}", "{{model}}, 1 h"),
        ],
        "percentunit",
        [Limit(0.05, RED)],
    )
    yield stacked(
        lines(
            "Images by version",
            "Answered images: how the traffic is split.",
            [
                Query(
                    "sum by (model, version) "
                    f"(rate(vision_images_total{{{VERSION}}}[$__rate_interval]))",
                    NAME,
                )
            ],
            "suffix: images/s",
        )
    )
    yield lines(
        "Answers of shadows",
        "Requests that a shadow answered for the log only, and why it did not answer others.",
        [
            Query(
                "sum by (model, version, outcome) "
                f"(rate(vision_shadow_requests_total{{{VERSION}}}[$__rate_interval]))",
                f"{NAME} {{{{outcome}}}}",
            )
        ],
        "reqps",
    )


def latency():
    """Yields the panels on how long answers take."""
    quantile = "model_version_stage:vision_stage_seconds"
    total = f'{{stage="total", {VERSION}}}'
    yield lines(
        "Latency",
        "From the first byte of a request to the last of its answer, by HTTP.",
        [
            Query(f"{quantile}:p99_5m{total}", f"{NAME} p99"),
            Query(f"{quantile}:p50_5m{total}", f"{NAME} median"),
        ],
        "s",
        [Limit(0.5, RED)],
    )
    yield lines(
        "p99 by stage",
        "Where the time goes: decoding, waiting for the model, the model. Quantiles do not add up.",
        [Query(f'{quantile}:p99_5m{{stage!="total", {VERSION}}}', f"{NAME} {{{{stage}}}}")],
        "s",
    )
    yield heat(
        "All answers",
        "How many requests took how long. Two bands are two kinds of requests.",
        "sum by (le) (increase(vision_stage_seconds_bucket"
        f'{{stage="total", {VERSION}}}[$__rate_interval]))',
        "s",
    )
    yield lines(
        "Queue",
        "Images that wait, as a share of --max-queue; when it is full, the answer is 429.",
        [Query(f"model_version:vision_queue_images:ratio{{{VERSION}}}", NAME)],
        "percentunit",
        [Limit(0.8, RED)],
        width=6,
    )
    yield lines(
        "Images in a batch",
        "How many images the model computes at a time, on average.",
        [
            Query(
                "sum by (model, version) "
                f"(rate(vision_batch_images_sum{{{VERSION}}}[$__rate_interval])) / "
                "sum by (model, version) "
                f"(rate(vision_batch_images_count{{{VERSION}}}[$__rate_interval]))",
                NAME,
            )
        ],
        "short",
        width=6,
    )


def drift():
    """Yields the panels on whether the input differs from the training data."""
    feature = f"{NAME} {{{{feature}}}}"
    yield states(
        "Alarms of drift",
        "Whether the latest window of a feature differs from the training data, by its test and by "
        "its size. Windows have --drift-window images and take a minute at least.",
        Query(f"model_version_feature:vision_drift_alarm:max{{{VERSION}}}", feature),
        ("as trained", "drifted"),
    )
    yield lines(
        "Size of the difference",
        "Kolmogorov-Smirnov or total variation distance, which alarms from 0.1 on; for the "
        "embedding, MMD (from 0.05 on) and the shift in standard deviations (from 0.3 on).",
        [
            Query(
                "max by (model, version, feature) "
                f'(vision_drift_divergence{{measure="effect", {VERSION}}})',
                feature,
            )
        ],
        "short",
        [Limit(0.1, ORANGE)],
    )
    yield lines(
        "KL divergence",
        "In nats, on the reference's bins. From 0.2 on a feature alarms if its test does, too.",
        [
            Query(
                "max by (model, version, feature) "
                f'(vision_drift_divergence{{measure="kl", {VERSION}}})',
                feature,
            )
        ],
        "short",
        [Limit(0.2, ORANGE)],
    )
    p_values = lines(
        "P-values",
        "Corrected for the number of features. At 0.01 and below, the difference is not chance.",
        [Query(f"min by (model, version, feature) (vision_drift_p_value{{{VERSION}}})", feature)],
        "short",
        [Limit(0.01, GREEN)],
        base=ORANGE,
    )
    yield logarithmic(p_values, 1e-4).max(1)
    yield lines(
        "Since the latest window",
        "How old the data of this row are. Without traffic no window ends.",
        [
            Query(
                f"time() - max by (model, version) (vision_drift_window_end_seconds{{{VERSION}}})",
                NAME,
            )
        ],
        "s",
        [Limit(DAY, ORANGE)],
    )


def quality():
    """Yields the panels on whether the model is still right."""
    yield (
        dashed(
            lines(
                "Accuracy over time",
                "By the labels that have arrived, and what calibrated confidence estimates without "
                "labels. Dashed: the interval, and the accuracy at the export.",
                [
                    Query(f"vision_quality_accuracy{{{VERSION}}}", f"{NAME} labels"),
                    Query(f"vision_quality_accuracy_low{{{VERSION}}}", f"{NAME} low"),
                    Query(f"vision_quality_accuracy_high{{{VERSION}}}", f"{NAME} high"),
                    Query(f"vision_quality_accuracy_expected{{{VERSION}}}", f"{NAME} exported"),
                    Query(
                        f"avg by (model, version) (vision_quality_estimated_accuracy{{{VERSION}}})",
                        f"{NAME} estimate",
                    ),
                ],
                "percentunit",
                start=None,
            ),
            "/ (low|high|exported)$/",
        )
        .axis_soft_min(0.8)
        .axis_soft_max(1)
    )
    yield lines(
        "Recall of the ten worst classes",
        "Share of a class's images that are found.",
        [Query(f"bottomk(10, vision_quality_recall{{{VERSION}}})", f"{NAME} {{{{class}}}}")],
        "percentunit",
    ).max(1)
    yield lines(
        "Calibration error",
        "By how much confidence and accuracy differ, on average.",
        [Query(f"vision_quality_calibration_error{{{VERSION}}}", NAME)],
        "percentunit",
        width=8,
    )
    yield lines(
        "Labels in the window",
        "What accuracy, recall and calibration are computed from.",
        [Query(f"vision_quality_labels{{{VERSION}}}", NAME)],
        "short",
        width=8,
    )
    yield states(
        "Decay",
        "Whether accuracy is below that of the export, by a test.",
        Query(f"max by (model, version) (vision_quality_alarm{{{VERSION}}})", NAME),
        ("as exported", "decayed"),
        width=8,
    )


def operation():
    """Yields the panels on what is running, and on what."""
    yield listing(
        "Versions",
        "All versions in the models' directory, which one is the main one, and how old their "
        "bundles are.",
        [
            f"max by (model, version, state) (vision_version_state{{{VERSION}}})",
            f"max by (model, version) (vision_version_serving{{{VERSION}}})",
            f"time() - max by (model, version) (vision_version_written_seconds{{{VERSION}}})",
        ],
        {
            "model": "Model",
            "version": "Version",
            "state": "State",
            "Value #B": "Main",
            "Value #C": "Age",
        },
        {"Main": "bool_yes_no", "Age": "s"},
    )
    yield bars(
        lines(
            "Log entries lost",
            "Rows of the prediction log, lines of the access log and kept images that could not be "
            "written.",
            [
                Query(
                    "sum by (instance, log) (increase(vision_log_lost[$__rate_interval]))",
                    "{{instance}} {{log}}",
                )
            ],
            "short",
            [Limit(1, RED)],
        )
    )
    yield lines(
        "Processor",
        "Cores that the server uses.",
        [Query('rate(process_cpu_seconds_total{job="vision"}[$__rate_interval])', "{{instance}}")],
        "suffix: cores",
    )
    yield lines(
        "Memory",
        "Resident memory of the server.",
        [Query('process_resident_memory_bytes{job="vision"}', "{{instance}}")],
        "bytes",
    )


ROWS = {
    "Now": overview,
    "Traffic and errors": traffic,
    "Latency and queue": latency,
    "Drift": drift,
    "Quality": quality,
    "Versions, logs, machine": operation,
}
