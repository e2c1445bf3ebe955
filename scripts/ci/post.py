"""Posts a comparison as a comment on a pull request, or renews the one that is there.

    GITHUB_TOKEN=... python -m scripts.ci.post --comparison comparison/gate.md \\
        --repository OWNER/NAME --number 12

Needs nothing but Python. The token may write comments on pull requests, no more. The text was made
by the pull request's code: it is posted as it is, and nothing in it is run. --run URL adds a link.
"""

import argparse
import json
import os
import pathlib
import re
import urllib.error
import urllib.request
from typing import Any

from vision import cli
from vision.errors import UserError, brief
from vision.support.reading import read_text

MARK = "<!-- vision: comparison of models -->"  # by which the comment is recognized
LONGEST = 60_000  # characters; GitHub takes 65,536
PER_PAGE = 100
MOST_PAGES = 30
BOT = "Bot"  # type of the user that an Actions token is
TIMEOUT = 30.0  # seconds


def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--comparison", type=pathlib.Path, required=True, help="gate.md")
    p.add_argument("--repository", required=True, help="OWNER/NAME")
    p.add_argument("--number", type=int, required=True, help="of the pull request")
    p.add_argument("--run", default="", help="URL of the workflow's run, which is linked")
    p.add_argument("--api", default="https://api.github.com")
    a = p.parse_args(argv)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", a.repository):
        raise UserError(f"--repository must be OWNER/NAME, got {a.repository!r}")
    if a.number < 1:
        raise UserError(f"--number must be at least 1, got {a.number}")
    token = os.environ.get("GITHUB_TOKEN", "")
    if not token:
        raise UserError("GITHUB_TOKEN is not set: a comment needs a token that may write it")
    comment = body(read_text(a.comparison), a.run)
    api = Api(a.api, token)
    comments = f"/repos/{a.repository}/issues/{a.number}/comments"
    own = own_comment(api, comments)
    if own is None:
        answer = api.ask("POST", comments, {"body": comment})
    else:
        answer = api.ask("PATCH", f"/repos/{a.repository}/issues/comments/{own}", {"body": comment})
    cli.show(f"{'posted' if own is None else 'renewed'} {answer.get('html_url', '')}".rstrip())


def body(text: str, run: str = "") -> str:
    """Returns the comment: its mark, the comparison, cut if it is too long, and a link.

    Raises:
        UserError: there is no comparison.
    """
    if not text.strip():
        raise UserError("the comparison is empty: the evaluation has written nothing")
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition("\n")[0] + "\n\n(cut: it is too long for a comment)"
    link = f"\n[All numbers]({run})\n" if run else ""
    return f"{MARK}\n{text.strip()}\n{link}"


class Api:
    """GitHub's REST API.

    Args:
        url: its URL.
        token: what it is asked with.
    """

    def __init__(self, url: str, token: str):
        self._url = url.rstrip("/")
        self._headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "User-Agent": "vision-ci",
            "X-GitHub-Api-Version": "2022-11-28",
        }

    def ask(self, method: str, path: str, contents: dict | None = None) -> Any:
        """Returns the answer to a request.

        Raises:
            UserError: it is refused, or the API cannot be reached.
        """
        data = None if contents is None else json.dumps(contents).encode()
        request = urllib.request.Request(self._url + path, data, self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise UserError(
                    f"{method} {path}: GitHub says {error.code} {_why(error)}"
                ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"{method} {path}: {brief(error)}") from error


def own_comment(api: Api, comments: str) -> int | None:
    """Returns the ID of the comment that was posted before; None if there is none."""
    for page in range(1, MOST_PAGES + 1):
        batch = api.ask("GET", f"{comments}?per_page={PER_PAGE}&page={page}")
        for comment in batch:
            is_bot = (comment.get("user") or {}).get("type") == BOT
            if is_bot and (comment.get("body") or "").startswith(MARK):
                return comment["id"]
        if len(batch) < PER_PAGE:
            return None
    return None


def _why(error):
    """Returns what GitHub says about an error."""
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


if __name__ == "__main__":
    cli.run(main)
