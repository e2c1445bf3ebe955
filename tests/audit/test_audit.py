"""The command: its report, its table, its limits and its mistakes."""

import html.parser
import json
import re

import cv2
import numpy as np
import pytest

from tests.audit.planting import HOSTILE
from tests.support.commands import exit_code
from vision.audit import embed
from vision.audit.__main__ import main
from vision.config import default


class Page(html.parser.HTMLParser):
    """The tags of a page, with what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.references = []
        self.ids = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [
            value
            for name, value in attributes
            if name in ("src", "href", "srcset", "data", "action")
        ]
        self.ids += [value for name, value in attributes if name == "id"]


@pytest.fixture(scope="module")
def page(audited):
    return (audited / "report.html").read_text()


def test_the_report_fetches_nothing_and_runs_nothing(page):
    parsed = Page(page)
    assert (
        not {"link", "iframe", "object"} & set(parsed.tags)
        and "<script src" not in page
        and "url(" not in page
        and "@import" not in page
    )
    assert (
        all(r.startswith(("data:image/", "#")) for r in parsed.references) and "img" in parsed.tags
    )
    assert {r[1:] for r in parsed.references if r.startswith("#")} <= set(parsed.ids)


def test_the_report_escapes_names_and_shows_leaks_first(page):
    assert HOSTILE not in page and "&lt;script&gt;alert(1)&amp;&#34;&#39;.jpg" in page
    order = [
        page.index(f'<h2 id="{kind}"')
        for kind in ("first", "overview", "balance", "leak", "unreadable", "duplicate")
    ]
    assert order == sorted(order)
    assert page.index("Pictures in one split that are also in another: 14") < page.index(
        "Files that cannot be read: 2"
    )
    assert page.count("cannot be read</div>") == 2


def test_the_report_gives_lines_for_a_config(audited, page):
    lines = json.loads((audited / "audit.json").read_text())["statistics"]["config"]
    from vision.config import default

    c = default()
    for line in lines:
        assert line.replace('"', "&#34;") in page
        exec(line, {"c": c})
    assert (
        c.data.normalize == "mean_std"
        and len(c.data.mean) == len(c.data.std) == 3
        and 0 < c.data.mean[0] < 1
    )


def test_audit_json_has_counts_limits_and_versions(audited, planted):
    record = json.loads((audited / "audit.json").read_text())
    assert record["counts"]["duplicate"] == len(planted.exact) and record["counts"][
        "near_duplicate"
    ] == len(planted.near)
    assert record["images"] == len(planted.digests) == sum(record["splits"].values())
    kept = {limit["key"]: limit["kept"] for limit in record["limits"]}
    assert (
        not kept["max_leaks"]
        and not kept["max_duplicates"]
        and kept["max_imbalance"]
        and kept["min_agreement"]
    )
    assert (
        record["source"] == f"folder:{planted.root}"
        and record["embeddings"] == "pixels"
        and record["seconds"] > 0
    )
    assert record["versions"]["vision"] and record["audit"]["near"] == 0.9


def run(*argv):
    return exit_code(main, *argv)


def test_strict_ends_with_1_and_names_the_limits(audited):
    message = (audited / "stderr").read_text()
    assert (audited / "code").read_text() == "1" and message.startswith("error: --strict: ")
    assert "audit.max_leaks allows at most 0, got 0." in message
    assert "audit.max_unreadable allows at most 0, got 0." in message
    assert (
        "audit.max_duplicates allows at most 0.01, got 0.1" in message
        and "imbalance" not in message
    )


def test_strict_ends_with_0_where_all_limits_are_kept(photos, tmp_path, capsys):
    for label in ("scratches", "inclusion"):
        for name, data in photos[label]:
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / label / name).write_bytes(data)
    flags = ("--strict", "--embeddings=pixels")
    assert run(f"--data=folder:{tmp_path}/data", f"--out={tmp_path}", *flags) == 0
    out = capsys.readouterr().out
    assert re.match(
        rf"folder:{tmp_path}/data: 30 images \(\d+ train, \d+ val, \d+ test\) of 2 classes", out
    )
    assert 'c.data.normalize = "mean_std"' in out and "report.html" in out


@pytest.mark.parametrize(
    "argv, message",
    [
        ((), "no data to audit: give --data SOURCE"),
        (("--data=digits",), "no directory to write to: give --out DIRECTORY"),
        (("--data=digitz", "--out=DIR"), "did you mean 'digits'"),
        (("--data=digits", "--out=DIR", "more"), "unexpected argument 'more'"),
        (
            ("--data=digits", "--out=DIR", "--embeddings=no/run"),
            "give auto, pixels, pretrained or a run directory",
        ),
        (
            ("--data=digits", "--out=DIR", "--config.audit.near=2.0"),
            "audit.near must be in [0, 1], got 2.0",
        ),
        (("--data=digits", "--out=DIR", "--config.audit.neer=0.5"), "did you mean 'audit.near'"),
        (
            ("--data=digits", "--out=DIR", "--config.audit.apply=all"),
            "audit.apply = 'all' is unknown",
        ),
        (
            ("--data=digits", "--out=DIR", "--sample-for-review=2"),
            "--sample-for-review must be in [0, 1], got 2",
        ),
        (("--data=digits", "--out=DIR", "--decisions=x.csv"), "give --apply too"),
        (("--data=digits", "--out=DIR", "--apply", "--decisions=x.csv"), "cannot read 'x.csv'"),
        (("--data=digits", "--out=FILE"), "cannot write to --out"),
    ],
)
def test_mistakes_end_with_2_and_one_line(argv, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    names = {"DIR": tmp_path / "out", "FILE": tmp_path / "file"}
    given = [
        argument.replace("DIR", str(names["DIR"])).replace("FILE", str(names["FILE"]))
        for argument in argv
    ]
    assert run(*given) == 2
    err = capsys.readouterr().err
    assert (
        message in err
        and len(err.splitlines()) <= 2
        and not (tmp_path / "out" / "report.html").exists()
    )


def test_a_sample_is_reviewed_and_agreement_is_shown(photos, tmp_path, capsys):
    for label in ("scratches", "inclusion"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for name, data in photos[label]:
            (tmp_path / "data" / label / name).write_bytes(data)
    data = f"--data=folder:{tmp_path}/data"
    out = f"--out={tmp_path}/out"
    pixels = "--embeddings=pixels"
    assert run(data, out, pixels, "--sample-for-review=0.4") == 0
    assert "review.csv: 12 images to label" in capsys.readouterr().out
    table = tmp_path / "out" / "review.csv"
    header, *lines = table.read_text().splitlines()
    answers = [line + line.rpartition(",")[0].rpartition(",")[2] for line in lines]
    answers[0] = lines[0] + ("inclusion" if answers[0].endswith("scratches") else "scratches")
    table.write_text("\n".join([header, *answers]))
    limit = ("--strict", "--config.audit.min_agreement=0.9", "--config.audit.max_wrong_labels=1.0")
    assert run(data, out, pixels, f"--annotations={table}", *limit) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: --strict: audit.min_agreement allows at least 0.9, got 0.8")
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    (pair,) = record["agreement"]["cohen"]
    assert (
        0.8 < pair["kappa"] < 0.85
        and pair["images"] == 12
        and len(record["agreement"]["disagreements"]) == 1
    )
    assert "data and review" in (tmp_path / "out" / "report.html").read_text()


def test_weak_embeddings_question_no_label(tmp_path, capsys):
    """Noise with labels at random: whatever a classifier of it prefers means nothing."""
    random = np.random.default_rng(0)
    for i in range(60):
        folder = tmp_path / "data" / random.choice(["cat", "dog"])
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), random.integers(0, 256, (16, 16, 3), np.uint8))
    out = tmp_path / "out"
    limit = ("--strict", "--config.audit.max_wrong_labels=0.0", "--config.audit.max_leaks=1.0")
    flags = ("--embeddings=pixels", *limit)
    assert run(f"--data=folder:{tmp_path}/data", f"--out={out}", *flags) == 0
    printed = capsys.readouterr().out
    words = "labels were not checked: a classifier of these embeddings (pixels) predicts "
    assert words in printed and "wrong_label" not in printed
    assert "--embeddings: pretrained or a trained run" in printed
    record = json.loads((out / "audit.json").read_text())
    assert record["counts"]["wrong_label"] == 0 and record["confusable"] == []
    assert record["trusted"] is False and record["power"]["kappa"] < 0.75
    (limit,) = [each for each in record["limits"] if each["key"] == "max_wrong_labels"]
    assert limit["value"] is None and limit["kept"]
    assert "wrong_label" not in (out / "issues.csv").read_text()
    page = (out / "report.html").read_text()
    assert "Labels were not checked: a classifier of these embeddings" in page
    assert "fit for training" not in page


def test_labels_that_nobody_predicted_are_not_trusted(tmp_path, capsys):
    """Each class has fewer images than there are folds."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / name / f"{i}.png"), pixels)
    out = tmp_path / "out"
    flags = ("--embeddings=pixels", "--config.data.fractions=(0.4, 0.3, 0.3)")
    assert run(f"--data=folder:{tmp_path}/data", f"--out={out}", *flags) == 0
    assert "labels were not checked: no two classes have an image for" in capsys.readouterr().out
    record = json.loads((out / "audit.json").read_text())
    assert record["trusted"] is False and record["power"] is None
    (limit,) = [each for each in record["limits"] if each["key"] == "max_wrong_labels"]
    assert limit["value"] is None
    assert "fit for training" not in (out / "report.html").read_text()


def test_pretrained_weights_are_used_if_they_are_affordable(monkeypatch):
    monkeypatch.setattr(embed, "has_accelerator", lambda: False)
    assert embed.choose(default(), embed.AFFORDABLE) == "pretrained"
    assert embed.choose(default(), embed.AFFORDABLE + 1) == "pixels"
    monkeypatch.setattr(embed, "has_accelerator", lambda: True)
    assert embed.choose(default(), 10**6) == "pretrained"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no weights
    assert embed.choose(default(), 10) == "pixels"
    config = default()
    config.model.pretrained = "no-such-weights"  # to be reported, not passed over
    assert embed.choose(config, 10) == "pretrained"
