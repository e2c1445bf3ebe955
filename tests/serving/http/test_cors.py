"""Pages of other origins: none may read a response unless a setting allows it."""

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from vision.serving.errors import NotFound
from vision.serving.http.middleware.stack import middleware_stack
from vision.serving.keys import ApiKeys
from vision.serving.settings import Settings

PAGE = {"Origin": "https://app.example"}
PREFLIGHT = PAGE | {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-api-key,content-type,inference-header-content-length",
}


class Silent:
    def access(self, entry): ...

    def refused(self, protocol, model, error): ...


async def classify(request):
    if request.path_params["model"] == "none":
        raise NotFound("there is no such model")
    return Response(b"{}", headers={"x-model-version": "1"})


@pytest.fixture
def client(tmp_path):
    def client(cors_origins):
        (tmp_path / "keys").write_text("tester secret\n")
        settings = Settings(keys=str(tmp_path / "keys"), cors_origins=cors_origins)
        stack = middleware_stack(ApiKeys(settings), Silent(), settings)
        routes = [Route("/classify/{model}", classify, methods=["POST"])]
        return TestClient(Starlette(routes=routes, middleware=stack), raise_server_exceptions=False)

    return client


def cors(response):
    return {name for name in response.headers if name.startswith("access-control-")}


def test_it_is_off_by_default(client):
    page = client("")
    assert page.options("/classify/tiny", headers=PREFLIGHT).status_code == 401
    response = page.post("/classify/tiny", content=b"a", headers=PAGE | {"X-Api-Key": "secret"})
    assert response.status_code == 200 and not cors(response)


def test_an_origin_that_is_allowed(client):
    page = client("http://localhost:3000, https://app.example")
    preflight = page.options("/classify/tiny", headers=PREFLIGHT)  # which has no key
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE["Origin"]
    assert "POST" in preflight.headers["access-control-allow-methods"]
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("x-api-key", "authorization", "content-type"))
    for path, key, status in (("tiny", "secret", 200), ("none", "secret", 404), ("tiny", "", 401)):
        headers = PAGE | {"X-Api-Key": key}
        response = page.post(f"/classify/{path}", content=b"a", headers=headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == PAGE["Origin"]
        assert "x-model-version" in response.headers["access-control-expose-headers"].lower()
        assert response.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in response.headers


def test_an_origin_that_is_not(client):
    page = client("https://app.example")
    for origin in (
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil",
        "null",
    ):
        preflight = page.options("/classify/tiny", headers=PREFLIGHT | {"Origin": origin})
        assert preflight.status_code == 400
        response = page.post("/classify/tiny", headers={"Origin": origin, "X-Api-Key": "secret"})
        for answer in (preflight, response):
            assert "access-control-allow-origin" not in answer.headers


def test_all_origins_never_with_credentials(client):
    page = client("*")
    headers = PAGE | {"Cookie": "a=b", "X-Api-Key": "secret"}
    for response in (
        page.options("/classify/tiny", headers=PREFLIGHT | {"Cookie": "a=b"}),
        page.post("/classify/tiny", content=b"a", headers=headers),
    ):
        assert response.headers["access-control-allow-origin"] in ("*", PAGE["Origin"])
        assert "access-control-allow-credentials" not in response.headers
