"""The inspection case, small: every stage, and a page with numbers of its own."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from experiments.steel_defects.case import SIZES, Case
from experiments.steel_defects.page import HERE, record
from tests.conftest import REPOSITORY, SHARED
from tests.support.axe import check_accessible

TAR = SHARED / "neu_det.tar"


@pytest.mark.skipif(not TAR.is_file(), reason="needs neu_det.tar of the shared data")
def test_the_case_ends_in_a_page(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XLA_")}
    command = [sys.executable, "-m", "experiments.steel_defects.run", str(TAR)]
    command += ["--size=smoke", f"--workdir={tmp_path}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=2400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    assert results["prepare"]["patches"]["train"] > 100
    assert len(results["scan"]["pictures"]) == 4
    assert all(picture["tiles"] == 1785 for picture in results["scan"]["pictures"])
    assert results["watch"]["rollout"]["status"] == "done"
    assert results["watch"]["rollout"]["failed"] == 0
    page = (tmp_path / "report.html").read_text()
    accuracy = results["train"]["lite0"]["accuracy"]
    assert f"{100 * accuracy:.1f} %" in page and page.count("data:image/jpeg") == 2
    links = re.findall(r'href="([^"#]+)"', page)
    assert len(links) > 8 and all((tmp_path / link).is_file() for link in links), links
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(HERE / "README.md", copy)
    record(Case(TAR, tmp_path, SIZES["smoke"]), results, copy)
    assert "not run" not in (copy / "README.md").read_text()
    assert {path.name for path in (copy / "pictures").iterdir()} == {"map.jpg", "patches.jpg"}
    check_accessible((tmp_path / "report.html").as_uri(), tmp_path)
