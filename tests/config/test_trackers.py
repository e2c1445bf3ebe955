"""Addresses of trackers: none that holds a password, which the run's config would keep."""

import pytest

from vision.config import default
from vision.config.trackers import check_tracker
from vision.errors import UserError


@pytest.fixture
def check(monkeypatch):
    """A function that checks an address of MLflow's, which need not be installed."""
    monkeypatch.setattr("vision.config.trackers.require", lambda *args, **kwargs: None)

    def checked(uri):
        config = default()
        config.log.tracker = "mlflow"
        config.log.tracker_options.uri = uri
        check_tracker(config.log)

    return checked


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:geheim@host:5000",
        " HTTPS://me:geheim@host",
        "https://geheim@host",  # a token
        "http://me:ge%2Fheim@host",
        "postgresql://me:geheim@host/mlflow",
        "postgresql+psycopg2://me:ge/heim@host:5432/mlflow",
        "mysql+pymysql://me:ge:heim@/mlflow?unix_socket=/run/mysql",
        "postgresql://host/mlflow?user=me&password=geheim",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DODBC%3BUID%3Dme%3BPWD%3Dgeheim",
    ],
)
def test_credentials_are_refused_with_the_place_for_them(check, uri):
    with pytest.raises(UserError) as caught:
        check(uri)
    message = str(caught.value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        assert name in message
    assert "heim" not in message and len(message.splitlines()) == 2


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "databricks",
        "databricks://profile",
        "http://host:5000",
        "http://[::1]:5000/mlflow#a@b:c",
        "https://host/a:b@c",
        "sqlite:///mlflow.db",
        "sqlite:////data/a:b@c.db",
        "postgresql://me@host:5432/mlflow?sslmode=require",
    ],
)
def test_other_addresses_are_not(check, uri):
    check(uri)
