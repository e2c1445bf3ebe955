"""Settings from flags and from a file: which goes before which, and what is said where one is
wrong."""

import dataclasses
import json
import subprocess

import pytest

from vision.errors import UserError
from vision.serving import settings as module
from vision.serving.settings import Settings, check, from_flags


@pytest.fixture
def good(tmp_path):
    return Settings(models=str(tmp_path))


def parse(*argv):
    return from_flags(list(argv), "usage")


def write(tmp_path, value):
    path = tmp_path / "settings.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return f"--settings={path}"


def refused(settings):
    with pytest.raises(UserError) as error:
        check(settings)
    return str(error.value)


def test_every_setting_is_a_flag_with_dashes():
    values = {"int": "7", "float": "0.5", "str": "text", "bool": "true"}
    fields = dataclasses.fields(Settings)
    argv = [f"--{f.name.replace('_', '-')}={values[type(f.default).__name__]}" for f in fields]
    settings = parse(*argv)
    for field in fields:
        value = getattr(settings, field.name)
        assert (
            type(value) is type(field.default)
            and str(value).lower() == values[type(field.default).__name__]
        )


def test_without_flags_all_are_the_defaults():
    assert parse() == Settings()


def test_a_flag_goes_before_the_file_and_that_before_a_default(tmp_path):
    file = write(tmp_path, {"max_batch": 16, "max_delay": 1, "log_hashes": True})
    settings = parse(file, "--max-batch=8")
    assert settings == Settings(max_batch=8, max_delay=1, log_hashes=True)
    assert parse(file, "--max-batch=32").max_batch == 32  # the default, but given
    assert parse(file, "--nolog-hashes").log_hashes is False


def test_help_names_every_setting_and_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    text = capsys.readouterr().out
    assert (
        end.value.code == 0
        and "--max-delay: seconds that an image may wait for others (0.002)" in text
    )
    assert all(
        f"--{field.name.replace('_', '-')}: " in text for field in dataclasses.fields(Settings)
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--max-bach=1"], "did you mean: max-batch"),
        (["--max_batch=1"], "did you mean: max-batch"),
        (["--max-batch=many"], "--max-batch=many"),
        (["--keys"], "missing value"),
        (["--models", "--http-port", "8080"], "--models needs a value, but '--http-port' follows"),
        (["models/"], "unexpected argument 'models/'"),
    ],
)
def test_a_wrong_flag(argv, words):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert words in str(error.value).replace("Did", "did").replace("Missing", "missing")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"max_bach": 16}, "did you mean 'max_batch'"),
        ({"max-batch": 16}, "did you mean 'max_batch'"),
        ({"max_batch": "16"}, 'max_batch must be an integer, got "16"'),
        ({"max_batch": 16.0}, "must be an integer"),
        ({"max_batch": True}, "must be an integer"),
        ({"max_delay": None}, "must be a number"),
        ({"log_hashes": 1}, "must be true or false"),
        ({"host": 1}, "must be a string"),
        ([], "must hold an object"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_wrong_file(tmp_path, value, words):
    with pytest.raises(UserError) as error:
        parse(write(tmp_path, value))
    assert words in str(error.value) and "settings.json" in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        parse(f"--settings={tmp_path / 'none.json'}")


def test_the_defaults_are_valid(good):
    check(good)


def test_origins_and_proxies_that_are_right(good):
    origins = "https://a.example:8443, http://localhost:3000,capacitor://localhost,http://[::1]:80"
    check(
        dataclasses.replace(good, cors_origins=origins, trusted_proxies="10.0.0.0/8, ::1,10.1.2.3")
    )
    check(dataclasses.replace(good, cors_origins="*", proxy_header="forwarded"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep_images": 0.01}, "--keep-images needs --prediction-log DIR"),
        ({"keep_images": 1.5}, "--keep-images must be in [0, 1], got 1.5"),
        ({"drift_window": -1}, "--drift-window must be at least 0, got -1"),
        ({"models": ""}, "which models?"),
        ({"models": "/nowhere/at/all"}, "no directory --models /nowhere/at/all"),
        ({"host": ""}, "--host is empty"),
        ({"http_port": 65536}, "--http-port must be a port, 0 to 65535, got 65536"),
        ({"grpc_port": 8080}, "two of them are the same"),
        ({"poll": 0.0}, "--poll must be above 0, got 0.0"),
        ({"timeout": float("nan")}, "--timeout must be a finite number, got nan"),
        ({"drain": float("inf")}, "--drain must be a finite number, got inf"),
        ({"max_batch": -1}, "--max-batch must be at least 0, got -1"),
        ({"max_delay": -1.0}, "--max-delay must be at least 0, got -1.0"),
        ({"max_queue": 8}, "--max-queue must be at least --max-images = 64"),
        ({"max_tiles": 257}, "--max-queue must be at least --max-tiles = 257"),
        ({"max_tiles": -1}, "--max-tiles must be at least 0"),
        ({"provider": "gpu"}, "--provider = 'gpu' is unknown"),
        ({"idle": 0.0}, "--idle must be above 0, got 0.0"),
        ({"cors_origins": "https://a.example/"}, "--cors-origins: 'https://a.example/' must be"),
        ({"cors_origins": "https://A.example"}, "--cors-origins: 'https://A.example' must be"),
        ({"cors_origins": "http://a, null"}, "--cors-origins: 'null' must be"),
        ({"trusted_proxies": "10.0.0.0/8, lb"}, "--trusted-proxies: 'lb' is neither an address"),
        ({"trusted_proxies": "*"}, "--trusted-proxies: '*' is neither an address"),
        ({"proxy_header": "x-real-ip"}, "--proxy-header = 'x-real-ip' is unknown"),
        ({"tls_key": "key.pem"}, "both --tls-certificate and --tls-key"),
        ({"tls_key": "none.pem", "tls_certificate": "none.pem"}, "No such file"),
    ],
)
def test_a_setting_that_is_wrong(good, change, words):
    assert words in refused(dataclasses.replace(good, **change))


def test_every_number_has_a_range():
    numbers = {f.name for f in dataclasses.fields(Settings) if type(f.default) in (int, float)}
    assert numbers == {name for _, names in module.RANGES.values() for name in names}


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """Returns a function that makes (certificate, key) files, by OpenSSL's own program."""
    directory = tmp_path_factory.mktemp("pem")

    def make(name, *options):
        files = [str(directory / f"{name}.{kind}.pem") for kind in ("certificate", "key")]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost"]
        command = [
            "openssl",
            "req",
            "-x509",
            *curve,
            "-out",
            files[0],
            "-keyout",
            files[1],
            *options,
        ]
        subprocess.run(command, check=True, capture_output=True)
        return files

    return make


def test_a_certificate_and_its_key(good, pem):
    certificate, key = pem("good", "-nodes")
    check(dataclasses.replace(good, tls_certificate=certificate, tls_key=key))


def test_certificates_that_do_not_work(good, pem, tmp_path):
    certificate, key = pem("one", "-nodes")
    other = pem("other", "-nodes")[1]
    locked, password = pem("locked", "-passout", "pass:secret")
    (tmp_path / "no.pem").write_text("no certificate")
    for pair in ((certificate, other), (locked, password), (str(tmp_path / "no.pem"), key)):
        assert "They must be PEM files that belong together" in refused(
            dataclasses.replace(good, tls_certificate=pair[0], tls_key=pair[1])
        )
