"""Bundles for tests of the server."""

import json
import shutil

import pytest

from tests.tiny_bundle import write_bundle


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("template") / "bundle")


@pytest.fixture
def put(template, tmp_path):
    """`put("digits/1")` puts a bundle there; a class is named after the version."""

    def put(name, **known):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest["classes"][0] = f"of {folder.name}"
        (folder / "bundle.json").write_text(json.dumps(manifest | known))
        return folder

    return put
