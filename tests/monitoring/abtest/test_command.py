"""`python -m vision.monitoring.abtest`: plans, verdicts from logs, and what a user gets wrong."""

import numpy as np
import pytest

from tests.monitoring.abtest.conftest import REQUESTS, error_of, record_of
from tests.support import ab_logs
from vision.reference.log_format import FORMAT_KEY, SKETCH_KEY
from vision.reference.sketch import SKETCH


def test_a_better_version_is_shipped(split, command, tmp_path):
    columns, truth = split
    code, printed, _ = command(f"--labels={tmp_path / 'labels.csv'}", "--effect=0.05")
    assert code == 0 and "\nship: The new version is better, a gain of" in printed
    record = record_of(tmp_path)
    is_new = np.array(columns["version"]) == "2"
    right = np.asarray(columns["class"]) == truth
    measure = record["measure"]
    assert measure["new"] == pytest.approx(right[is_new].mean())
    assert measure["old"] == pytest.approx(right[~is_new].mean())
    # both images of a request are right or wrong together, so a request counts as one
    requests = is_new[::2]
    assert measure["units"] == [int((~requests).sum()), int(requests.sum())]
    assert measure["low"] < 0.06 < measure["high"]
    assert record["looks"] == [] and record["pairs"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Ship" in page and "Newcombe" in page and "not independent" in page


def test_it_waits_for_the_planned_size(split, command, tmp_path):
    labels = f"--labels={tmp_path / 'labels.csv'}"
    code, printed, _ = command(labels)
    assert code == 0 and "continue: " in printed and "of the planned size" in printed
    assert "ship: " in command(labels, f"--planned={REQUESTS}")[1]
    assert "continue: " in command(labels, f"--planned={REQUESTS + 1}")[1]


def test_a_sequential_analysis_with_guardrails(split, command, tmp_path):
    flags = [f"--labels={tmp_path / 'labels.csv'}", f"--table={tmp_path / 'table.csv'}"]
    flags += ["--sequential", "--effect=0.03"]
    held = ["--guardrail=latency:10", "--guardrail=confidence:-0.02"]
    code, printed, _ = command(*flags, *held)
    assert code == 0 and "every guardrail holds" in printed and "at every look" in printed
    record = record_of(tmp_path)
    assert [guardrail["state"] for guardrail in record["guardrails"]] == ["holds", "holds"]
    looks = record["looks"]
    assert len(looks) == 60 and looks[-1]["units"] == REQUESTS
    last = looks[-1]
    for name, field in (("always_low", "low"), ("always_high", "high")):
        assert last[name] == pytest.approx(record["measure"]["sequence"][field])
    assert last["low"] == pytest.approx(record["measure"]["low"])
    assert "Look by look" in (tmp_path / "out" / "report.html").read_text()
    unsettled = command(*flags, "--guardrail=latency:0.001")[1]
    assert "continue: The new version is better" in unsettled


def test_columns_by_request_covariates_and_shares(split, command, tmp_path):
    table = f"--table={tmp_path / 'table.csv'}"
    flags = (table, "--measure=latency", "--effect=-2")
    assert "continue: " in command(*flags)[1]
    before = record_of(tmp_path)
    assert before["measure"]["rows"] == before["measure"]["units"]  # a number for each request
    assert "keep: The reduction is" in command(*flags, "--covariate=before")[1]
    after = record_of(tmp_path)
    assert after["cuped"]["variance_removed"] == pytest.approx(16 / 17, abs=0.02)
    assert after["measure"]["error"] < 0.3 * before["measure"]["error"]
    command(*flags, "--covariate=brightness")  # of images: its mean over the request
    assert record_of(tmp_path)["cuped"]["variance_removed"] < 0.01
    command(table, "--measure=bought", "--effect=0.05")
    assert record_of(tmp_path)["measure"]["kind"] == "proportion"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("flags", [(), ("--sequential",)])
@pytest.mark.parametrize("values", [("5", "5"), ("1e50", "-1e50")])
def test_columns_that_are_constant_or_huge(split, command, tmp_path, flags, values):
    lines = [f"r{i},{values[i % 2]}" for i in range(REQUESTS)]
    (tmp_path / "table.csv").write_text("id,latency\n" + "\n".join(lines))
    flags = (f"--table={tmp_path / 'table.csv'}", "--measure=latency", "--effect=0.1", *flags)
    code, printed, errors = command(*flags)
    assert (code, errors) == (0, "")
    is_constant = values[0] == values[1]
    assert ("keep: The gain is +0 to +0, below the 0.1" in printed) == is_constant
    assert (record_of(tmp_path)["progress"] is None) == is_constant  # infinite


def test_parquet_tables_are_read_too(split, command, tmp_path):
    import pandas as pd

    pd.read_csv(tmp_path / "table.csv").to_parquet(tmp_path / "table.parquet")
    flags = ("--measure=latency", "--effect=-2")
    command(f"--table={tmp_path / 'table.csv'}", *flags)
    record = record_of(tmp_path)
    command(f"--table={tmp_path / 'table.parquet'}", *flags)
    assert record_of(tmp_path) == record


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_nan_in_a_parquet_table_is_an_empty_cell(split, command, tmp_path, kind):
    import pandas as pd
    import pyarrow
    import pyarrow.parquet

    table = pd.read_csv(tmp_path / "table.csv").astype({"latency": kind})
    table["user"] = np.where(np.arange(REQUESTS) < 10, np.nan, np.arange(REQUESTS))
    table.loc[5:100, "latency"] = np.nan
    columns = {name: table[name].to_numpy() for name in ("latency", "user")}  # NaN, not null
    columns = {"id": table["id"].tolist(), **columns}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "table.parquet")["latency"].null_count == 0
    table.to_csv(tmp_path / "table.csv", index=False)
    flags = ("--measure=latency", "--effect=-2", "--unit=user")
    code, printed, _ = command(f"--table={tmp_path / 'table.csv'}", *flags)
    record = record_of(tmp_path)
    assert code == 0 and record["answers_of_unknown_unit"] == 20  # two images in a request
    assert sum(record["measure"]["rows"]) == REQUESTS - 101
    assert command(f"--table={tmp_path / 'table.parquet'}", *flags)[0] == 0
    measure = record_of(tmp_path)["measure"]
    assert measure["rows"] == record["measure"]["rows"]
    assert measure["low"] == pytest.approx(record["measure"]["low"], rel=1e-5)


def test_traffic_that_is_not_what_was_asked_for(split, command, tmp_path):
    flags = (f"--labels={tmp_path / 'labels.csv'}", "--effect=0.05")
    code, printed, _ = command(*flags, "--split=80:20")
    assert code == 0 and "continue: Nothing can be decided: " in printed
    assert "do not match the split 80:20 (p below 0.0001)" in printed
    # most users got answers from both versions
    code, printed, _ = command(
        *flags, "--measure=latency", f"--table={tmp_path / 'table.csv'}", "--unit=user"
    )
    assert code == 0 and "units got answers from both versions" in printed


def test_users_who_keep_their_version(command, tmp_path):
    """A key gives users one version each; what a user's requests share does not count twice."""
    random = np.random.default_rng(5)
    users = 300
    user = np.repeat(np.arange(users), 10)
    is_new = random.random(users) < 0.5
    right = random.random(3000) < random.beta(4, 1, users)[user]
    columns = {
        "id": [f"r{i}" for i in range(3000)],
        "version": np.where(is_new, "2", "1")[user],
        "class": np.where(right, "cat", "dog"),
    }
    ab_logs.write(tmp_path / "log", columns)
    ab_logs.write_labels(tmp_path / "labels.csv", columns["id"], [0] * 3000, ["cat"] * 3000)
    lines = [f"r{i},u{user[i]}" if i >= 10 else f"r{i}," for i in range(3000)]
    (tmp_path / "table.csv").write_text("id,user\n" + "\n".join(lines))
    labels = f"--labels={tmp_path / 'labels.csv'}"
    command(labels)
    by_request = record_of(tmp_path)["measure"]
    code, printed, _ = command(labels, f"--table={tmp_path / 'table.csv'}", "--unit=user")
    record = record_of(tmp_path)
    assert code == 0 and "10 answers have no user in --table and are left out" in printed
    assert sum(record["measure"]["units"]) == users - 1 and record["unit"] == "user"
    assert record["measure"]["error"] > 1.3 * by_request["error"]


def test_labels_of_mostly_one_version_of_users_decide_nothing(command, tmp_path):
    """Nearly every user has a label, with either version: their answers must be counted."""
    random = np.random.default_rng(7)
    users = 300
    user = np.repeat(np.arange(users), 10)
    is_new = (random.random(users) < 0.5)[user]
    columns = {"id": [f"r{i}" for i in range(3000)], "version": np.where(is_new, "2", "1")}
    ab_logs.write(tmp_path / "log", columns)
    kept = np.array(columns["id"])[random.random(3000) < np.where(is_new, 0.9, 0.5)]
    labels = np.where(random.random(len(kept)) < 0.9, "cat", "dog")
    ab_logs.write_labels(tmp_path / "labels.csv", kept, [0] * len(kept), labels)
    lines = [f"r{i},u{user[i]}" for i in range(3000)]
    (tmp_path / "table.csv").write_text("id,user\n" + "\n".join(lines))
    flags = (f"--labels={tmp_path / 'labels.csv'}", f"--table={tmp_path / 'table.csv'}")
    code, printed, _ = command(*flags, "--unit=user", "--effect=0.05")
    assert code == 0 and "continue: Nothing can be decided: accuracy is known for" in printed
    measured = record_of(tmp_path)["checks"]["measured"]
    assert sum(measured["units"]) >= users - 2
    assert measured["shares"] == pytest.approx([0.5, 0.9], abs=0.03)


def test_labels_of_mostly_one_version_decide_nothing(split, command, tmp_path):
    columns, truth = split
    random = np.random.default_rng(1)
    chosen = random.random(len(truth)) < np.where(np.array(columns["version"]) == "2", 0.9, 0.5)
    kept = [np.array(columns[name])[chosen] for name in ("id", "image")]
    ab_logs.write_labels(tmp_path / "labels.csv", *kept, truth[chosen])
    printed = command(f"--labels={tmp_path / 'labels.csv'}", "--effect=0.05")[1]
    assert "continue: Nothing can be decided: accuracy is known for" in printed


@pytest.mark.parametrize("flags", [(), ("--sequential",)])
@pytest.mark.parametrize("name", ["accuracy", "latency"])
def test_a_guardrail_known_for_mostly_one_version_decides_nothing(
    split, command, tmp_path, name, flags
):
    columns, truth = split
    is_new = np.array(columns["version"]) == "2"
    chosen = np.random.default_rng(1).random(REQUESTS).repeat(2) < np.where(is_new, 0.9, 0.4)
    ids = np.array(columns["id"])
    if name == "accuracy":
        kept = (ids[chosen], np.array(columns["image"])[chosen], truth[chosen])
        ab_logs.write_labels(tmp_path / "labels.csv", *kept)
    else:
        lines = [f"{request},5" for request in ids[chosen][::2]]
        (tmp_path / "table.csv").write_text("\n".join(["id,latency", *lines]))
    flags = (f"--table={tmp_path / 'table.csv'}", f"--labels={tmp_path / 'labels.csv'}", *flags)
    flags = (*flags, "--measure=confidence", "--effect=0.02")
    code, printed, _ = command(*flags, "--guardrail=contrast:1", f"--guardrail={name}:-0.01")
    assert code == 0 and f"continue: Nothing can be decided: {name} is known for" in printed
    checks = record_of(tmp_path)["checks"]
    assert checks["measured"]["p"] == checks["guarded"]["measures"]["contrast"]["p"] == 1
    assert f"answers with a known {name}" in (tmp_path / "out" / "report.html").read_text()
    assert "Nothing can be decided" not in command(*flags)[1]  # without the guardrail


def test_a_guardrail_on_the_measure_is_checked_once(split, command, tmp_path):
    flags = (f"--labels={tmp_path / 'labels.csv'}", "--guardrail=accuracy:-0.01")
    command(*flags)
    assert record_of(tmp_path)["checks"]["guarded"] == {"measures": {}, "doubt": ""}
    command(*flags, "--covariate=brightness")  # the measure is of units with a brightness only
    assert list(record_of(tmp_path)["checks"]["guarded"]["measures"]) == ["accuracy"]


def test_an_a_a_test_is_called_one(command, tmp_path):
    columns, truth = ab_logs.draw(np.random.default_rng(3), 400, (0.9, 0.9))
    ab_logs.write(tmp_path / "log", columns | {"bundle": ["a" * 16] * 400})
    ab_logs.write_labels(tmp_path / "labels.csv", columns["id"], columns["image"], truth)
    assert command(f"--labels={tmp_path / 'labels.csv'}")[0] == 0
    assert "this is an A/A test" in (tmp_path / "out" / "report.html").read_text()


def test_labels_of_unknown_requests(split, command, tmp_path):
    columns, truth = split
    ids = [f"x{i}" if i < 1000 else name for i, name in enumerate(columns["id"])]
    ab_logs.write_labels(tmp_path / "labels.csv", ids, columns["image"], truth)
    code, printed, _ = command(f"--labels={tmp_path / 'labels.csv'}")
    assert code == 0 and "1,000 of 6,000 labels match no request to the two versions" in printed
    ids = [f"x{name}" for name in ids]
    ab_logs.write_labels(tmp_path / "labels.csv", ids, columns["image"], truth)
    assert "none of 6,000 labels" in error_of(command(f"--labels={tmp_path / 'labels.csv'}"))
    (tmp_path / "table.csv").write_text("id,latency\nx1,5\n")
    flags = (f"--table={tmp_path / 'table.csv'}", "--measure=latency", "--effect=-1")
    assert "none of 1 rows belongs to a request" in error_of(command(*flags))
    other = ["Katze" if name == "cat" else "Hund" for name in truth]
    ab_logs.write_labels(tmp_path / "labels.csv", columns["id"], columns["image"], other)
    message = error_of(command(f"--labels={tmp_path / 'labels.csv'}"))
    assert "no version has ever answered with a class of the labels" in message


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model=cars"], "has no answers of cars/1, only of pets/"),
        (["--new=3"], "has no answers of pets/3, only of pets/"),
        (["--old=2"], "--old and --new are both 2"),
        (["--since=2031-01-01"], "the window of --since and --until has no answers of pets"),
        (["--until=2025-10-09T08:53:21"], "the window of --since and --until has no answers of"),
        (["--since=2031-01-01", "--until=2030-01-01"], "must be before --until"),
        (["--since=yesterday"], "must be a time in ISO 8601"),
        (["--split=50:60"], "which sum to 100, got 50:60"),
        (["--split=50"], "shares OLD:NEW"),
        (["--split=100:0"], "shares OLD:NEW"),
        (["--split=a:b"], "shares OLD:NEW"),
        (["--measure=speed", "--effect=1"], "the measure = 'speed' is unknown"),
        (["--measure=class", "--effect=1"], "the measure = 'class' is unknown"),
        (["--measure=entropy"], "give --effect"),
        (["--covariate=entropy"], "--covariate entropy is part of the answer"),
        (["--measure=contrast", "--effect=1", "--covariate=contrast"], "is judged as a measure"),
        (["--covariate=contrast", "--guardrail=contrast:1"], "is judged as a measure"),
        (["--guardrail=latency"], "MEASURE:MARGIN"),
        (["--guardrail=entropy:0"], "MEASURE:MARGIN"),
        (["--guardrail=entropy:1e300"], "MEASURE:MARGIN"),
        (["--guardrail=speed:1"], "the measure = 'speed' is unknown"),
        (["--labels="], "give --labels FILE"),
        (["--labels=missing.csv"], "missing.csv"),
        (["--table=missing.csv"], "missing.csv"),
        (["--unit=user"], "give --table FILE"),
        (["--effect=0"], "a number other than 0"),
        (["--effect=nan"], "a number other than 0"),
        (["--alpha=1"], "--alpha must be in"),
        (["--power=1"], "--power must be in"),
        (["--planned=-1"], "--planned must be at least 0"),
        (["--log="], "give --log"),
        (["--out="], "give --out"),
        (["--model="], "give --model"),
        (["word"], "unexpected argument"),
    ],
)
def test_what_is_wrong_keeps_what_was_there(split, command, tmp_path, flags, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "abtest.json").write_text("before")
    assert message in error_of(command(f"--labels={tmp_path / 'labels.csv'}", *flags))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["abtest.json"]
    assert (tmp_path / "out" / "abtest.json").read_text() == "before"


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,latency\nr1,5\nr1,6\n", "has two rows for request 'r1'"),
        ("id,latency\nr1,fast\n", "latency must be a number from -1e+50 to 1e+50, got 'fast'"),
        ("id,latency\nr1,inf\n", "latency must be a number from -1e+50 to 1e+50, got 'inf'"),
        ("id,latency\nr1,-1e308\n", "latency must be a number from -1e+50 to 1e+50, got '-1e308'"),
        ("id,latency\n,5\n", "a row without an id"),
        ("request,latency\nr1,5\n", "has no column 'id'"),
        ("id,latency,confidence\nr1,5,1\n", "'confidence' is a measure of the log"),
    ],
)
def test_tables_that_are_wrong(split, command, tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    flags = (f"--table={tmp_path / 'table.csv'}", "--measure=latency", "--effect=-1")
    assert message in error_of(command(*flags))


def test_logs_that_are_wrong(split, command, tmp_path):
    columns, _ = split
    few = {name: list(values)[:40] for name, values in columns.items()}
    labels = f"--labels={tmp_path / 'labels.csv'}"
    ab_logs.write(tmp_path / "old", few, metadata={FORMAT_KEY: "1", SKETCH_KEY: SKETCH})
    assert "is of format 1" in error_of(command(labels, f"--log={tmp_path / 'old'}"))
    ab_logs.write(tmp_path / "two", few)
    ab_logs.write(tmp_path / "two", few | {"bundle": ["b" * 16] * 40}, 1)
    message = error_of(command(labels, f"--log={tmp_path / 'two'}"))
    assert "was 2 different bundles" in message
    ab_logs.write(tmp_path / "none", {name: [] for name in columns})
    assert "has no rows" in error_of(command(labels, f"--log={tmp_path / 'none'}"))
    assert "there is no directory" in error_of(command(labels, f"--log={tmp_path / 'no'}"))
    ab_logs.write(tmp_path / "same", few | {"id": ["r1"] * 40})
    message = error_of(command("--measure=confidence", f"--log={tmp_path / 'same'}"))
    assert "has answers from both" in message


def test_plans(command):
    code, printed, _ = command("--baseline=0.9", "--traffic=5000", word="plan")
    assert code == 0 and "26,990 requests, 6 days: 13,495 of the old version" in printed
    assert "at most 1.94 times as many, 52,306, 11 days" in printed
    code, printed, _ = command(
        *("--deviation=40", "--effect=-5", "--split=90:10", "--images=4", "--correlation=0.5"),
        word="plan",
    )
    assert code == 0 and "2.50 times as many images" in printed


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "give --baseline"),
        (["--baseline=0.9", "--deviation=1"], "give --baseline"),
        (["--baseline=1.2"], r"--baseline must be in (0, 1)"),
        (["--baseline=0.995"], "baseline + effect must be in (0, 1)"),
        (["--baseline=0.9", "--effect=1e-9"], "more than a trillion"),
        (["--deviation=0"], "--deviation must be above 0"),
        (["--deviation=nan"], "--deviation must be above 0"),
        (["--baseline=0.9", "--images=0"], "--images must be from 1 to 1,000,000"),
        (["--baseline=0.9", "--images=1e308", "--correlation=0.5"], "--images must be from 1 to"),
        (["--baseline=0.9", "--correlation=2"], "--correlation must be in"),
        (["--baseline=0.9", "--traffic=-1"], "--traffic must be at least 1, or 0"),
        (["--baseline=0.9", "--traffic=1e-310"], "--traffic must be at least 1, or 0"),
        (["--baseline=0.9", "--traffic=inf"], "--traffic must be at least 1, or 0"),
        (["--deviation=1", "--effect=1e300"], "--effect must be a number other than 0, at most"),
        (["--baseline=0.9", "--split=1:2"], "--split must be"),
    ],
)
def test_plans_that_are_wrong(command, flags, message):
    assert message in error_of(command(*flags, word="plan"))


def test_commands_that_are_wrong(command):
    assert "the command = 'ship' is unknown" in error_of(command(word="ship"))
