"""Bundles and gRPC servers for tests of the server."""

import dataclasses
import json
import shutil

import pytest

from tests.support.tiny_bundle import write_bundle


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("template") / "bundle")


@pytest.fixture
def put(template, tmp_path):
    """`put("digits/1")` puts a bundle there; a class is named after the version."""

    def put(name, **changes):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest["classes"][0] = f"of {folder.name}"
        (folder / "bundle.json").write_text(json.dumps(manifest | changes))
        return folder

    return put


@pytest.fixture(scope="module")
def served(models):
    """A gRPC server of the module's own `models`."""
    # and with it the protocol's messages, which few tests need
    from tests.serving.served import SETTINGS, Served

    server = Served(dataclasses.replace(SETTINGS, models=str(models)))
    yield server
    server.close()


@pytest.fixture
def channel(served):
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as grpc_channel:
        yield grpc_channel


@pytest.fixture
def stub(channel):
    from tritonclient.grpc import service_pb2_grpc

    return service_pb2_grpc.GRPCInferenceServiceStub(channel)
