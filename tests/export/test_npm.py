"""Packages of npm: the pinned ones and no others, or a sentence with the command that helps."""

import base64
import hashlib
import os
import re
import shutil

import pytest

from tests.support.npm_packages import tarball
from vision.errors import RunError, UserError
from vision.export import npm

CONTENT = b"export const answer = 42;\n"


TARBALL = tarball({"dist/index.js": CONTENT, "dist/other.js": b"not wanted"})
PACKAGE = {
    "name": "@scope/tool",
    "version": "1.2.3",
    "integrity": "sha512-" + base64.b64encode(hashlib.sha512(TARBALL).digest()).decode(),
    "files": {"dist/index.js": "below/tool.js"},
}
FILE = "scope-tool-1.2.3.tgz"
COMMAND = r"npm pack @scope/tool@1\.2\.3"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """An empty folder that is the only one on the PATH; `npm` may be put there."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write_npm(programs, script):
    """Puts a shell script in npm's place."""
    path = programs / "npm"
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\nPATH=/bin:/usr/bin\n{script}\n")
    path.chmod(0o755)


def test_what_is_pinned():
    for packages in npm.pinned().values():
        for package in packages:
            assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
            digest = base64.b64decode(package["integrity"].removeprefix("sha512-"), validate=True)
            assert len(digest) == 64
            assert package["license"] in ("Apache-2.0", "MIT") and package["copyright"]
            assert all(".." not in name for name in package["files"].values())
            assert all(package[link].startswith("https://") for link in ("source", "notices"))


def test_it_is_downloaded_once(programs, tmp_path):
    (tmp_path / "published").write_bytes(TARBALL)
    write_npm(programs, f"echo $@ >> {tmp_path}/log; cp {tmp_path}/published ./{FILE}")
    cache = tmp_path / "cache"
    for _ in range(2):
        assert npm.fetch([PACKAGE], cache=cache) == [TARBALL]
    log = (tmp_path / "log").read_text()
    assert log.splitlines() == ["pack --loglevel=error --ignore-scripts @scope/tool@1.2.3"]
    assert os.listdir(cache) == [FILE]
    (cache / FILE).write_bytes(TARBALL[:-1])  # damaged: it is downloaded again
    assert npm.fetch([PACKAGE], cache=cache) == [TARBALL]
    (cache / FILE).unlink()
    (tmp_path / "published").write_bytes(TARBALL + b" ")  # something else in the registry
    with pytest.raises(UserError, match=r"is not @scope/tool@1\.2\.3 as it was published"):
        npm.fetch([PACKAGE], cache=cache)
    assert os.listdir(cache) == []


def test_without_npm_or_without_a_network(programs, tmp_path):
    with pytest.raises(
        UserError, match=rf"(?s)npm, which .* is not installed.*{COMMAND}\nand give"
    ):
        npm.fetch([PACKAGE], cache=tmp_path / "cache")
    write_npm(programs, "echo 'network request failed' >&2; exit 1")
    message = (
        r"cannot download @scope/tool@1\.2\.3: network request failed\n"
        rf"On a machine where it can, run {COMMAND}"
    )
    with pytest.raises(RunError, match=message):
        npm.fetch([PACKAGE], cache=tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []
    (programs / "npm").write_text("#!/no/such/program\n")
    with pytest.raises(
        RunError, match=r"cannot download @scope/tool@1\.2\.3: it cannot be started"
    ):
        npm.fetch([PACKAGE], cache=tmp_path / "cache")


def test_a_folder_of_packages(tmp_path):
    with pytest.raises(UserError, match=rf"(?s)has no {re.escape(FILE)}: run there\n{COMMAND}"):
        npm.fetch([PACKAGE], str(tmp_path))
    (tmp_path / FILE).write_bytes(TARBALL)
    assert npm.fetch([PACKAGE], str(tmp_path)) == [TARBALL]
    (tmp_path / FILE).write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"(?s)its SHA-512 differs.*{COMMAND}"):
        npm.fetch([PACKAGE], str(tmp_path))


def test_only_the_wanted_files_are_written(tmp_path):
    npm.unpack(TARBALL, PACKAGE, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "below" / "tool.js"] and files[0].read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"has no dist/index\.js"):
        npm.unpack(tarball({}), PACKAGE, tmp_path)
