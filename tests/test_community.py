"""The files that GitHub and others read: citation, changes, issues, what git ignores."""

import re
import subprocess
import tomllib

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.support.pages import PAGES, programs
from vision.stages import stages
from vision.version import __version__

# What the schema of cff-version 1.2.0 asks for, and those of its keys that we use.
REQUIRED = {"authors", "cff-version", "message", "title"}
ALLOWED = REQUIRED | {"abstract", "keywords", "license", "type", "version"}
OUTPUTS = ("--out", "--workdir", "--maps", "--pictures", "--prediction-log")
FORMS = sorted(REPOSITORY.glob(".github/ISSUE_TEMPLATE/*.yml"))


def test_the_citation_is_valid():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert REQUIRED <= set(citation) <= ALLOWED
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == __version__
    for author in citation["authors"]:
        assert set(author) == {"name"} or {"family-names", "given-names"} <= set(author)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]


def test_changes_are_of_versions_that_exist():
    titles = re.findall(r"^## (.+)", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert titles[0] == "Unreleased"
    tags = subprocess.run(["git", "tag"], cwd=REPOSITORY, capture_output=True, text=True).stdout
    for title in titles[1:]:
        assert f"v{title.split(' ')[0]}" in tags.split(), title
    kinds = set(re.findall(r"^### (.+)", PAGES["CHANGELOG.md"], re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_github_asks_for(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and len({field["id"] for field in fields}) == len(fields)
    for field in fields:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]


def test_a_bug_report_asks_for_the_doctor():
    (form,) = [yaml.safe_load(path.read_text()) for path in FORMS if path.stem == "bug_report"]
    fields = {field.get("id"): field for field in form["body"]}
    assert fields["doctor"]["validations"]["required"]
    assert "doctor" in {stage.name for stage in stages()}


def test_git_ignores_what_the_commands_of_the_pages_write():
    places = {"site/html/index.html", "runs/x"}
    for command in programs():
        words = [part for word in command.words for part in word.split("=", 1)]
        for flag, value in zip(words, words[1:], strict=False):
            is_relative = re.match(r"[a-z]\w*", value) and value not in ("of", "outside")
            if flag in OUTPUTS and is_relative:
                places.add(value if "." in value else f"{value.rstrip('/')}/file")
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=REPOSITORY,
        input="\n".join(sorted(places)),
        capture_output=True,
        text=True,
    )
    if done.returncode > 1:
        pytest.skip("this is not a checkout of git")
    assert places - set(done.stdout.split("\n")) == set()
