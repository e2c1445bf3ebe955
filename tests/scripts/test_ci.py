"""What evaluates a pull request: the workflow's rights, the settings, and the comment."""

import http.server
import json
import pathlib
import re
import subprocess
import sys
import threading

import pytest
import yaml

from scripts.ci import evaluate, post
from tests.conftest import REPOSITORY
from vision import cli

WORKFLOW = REPOSITORY / ".github" / "workflows" / "evaluate.yml"
COMMENTS = "/repos/lab/vision/issues/7/comments"
TOKEN = "secret-token"


class GitHub(http.server.BaseHTTPRequestHandler):
    """As much of GitHub's API as comments need; `server` has its state."""

    def _answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        contents = json.loads(self.rfile.read(length)) if length else None
        self.server.seen.append((self.command, self.path, contents, dict(self.headers)))
        status, answer = self.server.answer(self.command, self.path, contents)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, *_):
        pass


@pytest.fixture
def github(monkeypatch):
    """A server with comments, {ID: (body, type of the user)}."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), GitHub)
    server.seen = []
    server.comments = {}

    def answer(method, path, contents):
        if method == "GET":
            page = int(re.search(r"page=(\d+)$", path)[1])
            rows = [
                {"id": key, "body": text, "user": {"type": kind}}
                for key, (text, kind) in server.comments.items()
            ]
            return 200, rows[100 * (page - 1) : 100 * page]
        key = int(path.rpartition("/")[2]) if method == "PATCH" else len(server.comments) + 1
        server.comments[key] = (contents["body"], "Bot")
        return (200 if method == "PATCH" else 201), {"html_url": f"https://example.org/{key}"}

    server.answer = answer
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(github, tmp_path, text="### better\n", *more):
    (tmp_path / "gate.md").write_text(text)
    argv = [f"--comparison={tmp_path / 'gate.md'}", "--repository=lab/vision", "--number=7"]
    argv.append(f"--api=http://127.0.0.1:{github.server_port}")
    cli.run(post.main, [*argv, *more])


def test_a_comparison_is_posted_once_and_then_renewed(github, tmp_path, capsys):
    run(github, tmp_path, "### better\n", "--run=https://example.org/run/1")
    assert capsys.readouterr().out == "posted https://example.org/1\n"
    method, path, contents, headers = github.seen[-1]
    assert (method, path) == ("POST", COMMENTS)
    link = "[All numbers](https://example.org/run/1)"
    assert contents == {"body": f"{post.MARK}\n### better\n\n{link}\n"}
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Content-Type"] == "application/json"
    run(github, tmp_path, "### worse\n")
    assert capsys.readouterr().out == "renewed https://example.org/1\n"
    assert github.seen[-1][:2] == ("PATCH", "/repos/lab/vision/issues/comments/1")
    assert github.comments == {1: (f"{post.MARK}\n### worse\n", "Bot")}


def test_the_own_comment_is_sought_on_all_pages_and_is_no_person_s(github, tmp_path):
    github.comments = dict.fromkeys(range(1, 120), ("hello", "User"))
    github.comments[3] = (f"{post.MARK}\nquoted by a person", "User")
    github.comments[119] = (f"{post.MARK}\nold", "Bot")
    run(github, tmp_path)
    assert github.seen[-1][:2] == ("PATCH", "/repos/lab/vision/issues/comments/119")


def test_a_comment_is_never_too_long_for_github(github, tmp_path):
    run(github, tmp_path, "| a line of a table |\n" * 10_000)
    text = github.seen[-1][2]["body"]
    assert len(text) < 65_536 and text.endswith("(cut: it is too long for a comment)\n")
    assert text.startswith(f"{post.MARK}\n| a line of a table |\n")


def test_what_the_comparison_says_is_sent_as_it_is(github, tmp_path):
    text = '### "quotes", `$(code)`, \\ and ümläuts ✅'
    run(github, tmp_path, text)
    assert github.seen[-1][2]["body"] == f"{post.MARK}\n{text}\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": 403}, "GitHub says 403 Resource not accessible by integration"),
        ({"text": " \n"}, "the comparison is empty"),
        ({"argv": "--repository=vision"}, "--repository must be OWNER/NAME, got 'vision'"),
        ({"argv": "--number=0"}, "--number must be at least 1, got 0"),
        ({"argv": "--api=http://127.0.0.1:9"}, "refused"),
        ({"argv": "--comparison=none.md"}, "cannot read 'none.md'"),
        ({"token": ""}, "GITHUB_TOKEN is not set"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_comment_that_cannot_be_written(change, message, github, tmp_path, monkeypatch, capsys):
    if "status" in change:
        refusal = {"message": "Resource not accessible by integration"}
        github.answer = lambda *_: (change["status"], refusal)
    monkeypatch.setenv("GITHUB_TOKEN", change.get("token", TOKEN))
    with pytest.raises(SystemExit) as ended:
        run(github, tmp_path, change.get("text", "text"), *change.get("argv", "").split())
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and message in errors
    assert len(errors.splitlines()) == 1 and TOKEN not in errors
    assert github.comments == {}


def test_posting_needs_nothing_but_python():
    command = [sys.executable, "-S", "-m", "scripts.ci.post", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"old": "digits"}}, 'must have "config" or "model", and not both'),
        ({"config": "a.py", "model": "run", "data": {}}, "and not both"),
        ({"config": "a.py"}, "data"),
        ({"model": "weights", "data": {"old": 3}}, "must be text"),
        (None, "evaluate.json"),
    ],
)
def test_settings_that_say_nothing(settings, message, tmp_path, capsys):
    file = tmp_path / evaluate.SETTINGS
    file.parent.mkdir(parents=True)
    if settings is not None:
        file.write_text(json.dumps(settings))
    with pytest.raises(SystemExit) as ended:
        cli.run(evaluate.main, [f"--base={tmp_path}", f"--head={tmp_path}", "--out=out"])
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and message in errors and len(errors.splitlines()) <= 2


def test_a_folder_without_the_code_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(evaluate.main, [f"--base={tmp_path}", f"--head={REPOSITORY}", f"--out={tmp_path}"])
    assert ended.value.code == 2
    assert f"{tmp_path} is not a checkout of this code" in capsys.readouterr().err


def test_the_settings_of_this_repository_are_valid():
    settings = evaluate.read_settings(REPOSITORY / evaluate.SETTINGS)
    assert (REPOSITORY / settings["config"]).is_file()


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


def test_the_workflow_has_the_least_rights(workflow):
    jobs = workflow["jobs"]
    assert workflow["permissions"] == {}
    assert jobs["evaluate"]["permissions"] == {"contents": "read"}
    assert jobs["comment"]["permissions"] == {
        "actions": "read",
        "contents": "read",
        "pull-requests": "write",
    }
    # yaml reads "on" as true; pull_request_target would give forks a token that can write
    assert list(workflow[True]) == ["pull_request"]
    text = WORKFLOW.read_text()
    assert not re.search(r"\bsecrets\.\w", text)
    assert "head.repo.full_name == github.repository" in jobs["comment"]["if"]
    # the job that may write checks out the code before the change, never the pull request's
    checkouts = [step for step in jobs["comment"]["steps"] if "checkout" in step.get("uses", "")]
    refs = [step["with"]["ref"] for step in checkouts]
    assert refs == ["${{ github.event.pull_request.base.sha }}"]


def test_actions_are_pinned_and_keep_no_token(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            name, _, version = step.get("uses", "").partition("@")
            assert not name or re.fullmatch(r"[0-9a-f]{40}", version), name
            if name == "actions/checkout":
                assert step["with"]["persist-credentials"] is False


def test_what_others_write_is_never_part_of_a_command(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), step


def test_the_steps_are_commands_that_exist(workflow):
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [
        words for step in steps for words in re.findall(r"-m (\S+)(.*)", step.get("run", ""))
    ]
    assert [name for name, _ in commands] == ["scripts.ci.evaluate", "scripts.ci.post"]
    for name, words in commands:
        page = pathlib.Path(REPOSITORY, *name.split(".")).with_suffix(".py").read_text()
        for flag in re.findall(r"(--\w+)", words):
            assert f'"{flag}"' in page, flag
