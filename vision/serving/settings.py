"""The server's settings: flags, and the keys of the JSON file that --settings names."""

import dataclasses
import json
import math
import os
import pathlib
import re
import ssl
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from absl import flags

from vision.bundle.runtimes import PROVIDERS
from vision.errors import UserError, brief, check_choice, check_flag, check_range, first_line
from vision.serving import client_address
from vision.serving.models import links
from vision.stages import as_called

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The server's settings; flags have dashes instead of underscores. `check` has their ranges."""

    models: Annotated[str, "directory of MODEL/VERSION/ bundles"] = ""
    host: Annotated[str, "address to listen on; 0.0.0.0 = all"] = "127.0.0.1"
    http_port: Annotated[int, "port of REST and the page; 0 = a free one"] = 8080
    grpc_port: Annotated[int, "port of gRPC; 0 = no gRPC"] = 8081
    admin_port: Annotated[
        int, "port to load, unload and roll back; always on 127.0.0.1; 0 = closed"
    ] = 0
    start_timeout: Annotated[
        float, "seconds to wait at startup for models behind a link that is still dangling"
    ] = 60.0
    poll: Annotated[float, "seconds between scans for new versions and a new traffic.json"] = 1.0

    max_batch: Annotated[
        int, "images in a batch; 0 = measured: the smallest batch about as fast per image as any"
    ] = 0
    max_delay: Annotated[float, "seconds that an image may wait for others"] = 0.002
    max_queue: Annotated[
        int, "images that may wait for each version; beyond that, requests are refused with 429"
    ] = 256
    threads: Annotated[int, "threads for the model; 0 = all cores that the container may use"] = 0
    decode_threads: Annotated[int, "threads that decode images; 0 = all cores, but at most 4"] = 0
    provider: Annotated[str, "cpu, cuda or tensorrt"] = "cpu"

    max_body: Annotated[int, "bytes of a request; with gRPC 2 GiB at most"] = 33_554_432
    max_images: Annotated[int, "images in a request"] = 64
    max_tiles: Annotated[int, "tiles that a request's image is cut into; 0 = --max-queue"] = 0
    max_pixels: Annotated[int, "pixels of an image, and of all that are decoded at a time"] = (
        60_000_000
    )
    max_side: Annotated[int, "pixels of an image's side"] = 16_384
    body_timeout: Annotated[float, "seconds for a request to arrive; large ones get more"] = 10.0
    timeout: Annotated[float, "seconds for an answer"] = 30.0
    drain: Annotated[float, "seconds that shutdown waits for answers"] = 30.0
    # longer than load balancers keep a connection, so that they never use one that is closing
    idle: Annotated[float, "seconds that an HTTP connection may stay open between requests"] = 75.0

    cors_origins: Annotated[
        str,
        "origins whose pages may call the server, such as https://a.example,http://localhost:3000; "
        "* = all; '' = only the server's own",
    ] = ""
    trusted_proxies: Annotated[
        str,
        "addresses and networks of proxies that pass on client addresses, such as 10.0.0.0/8,::1",
    ] = ""
    proxy_header: Annotated[str, "the header that they use: x-forwarded-for or forwarded"] = (
        "x-forwarded-for"
    )

    keys: Annotated[
        str,
        "file of 'NAME KEY [REQUESTS_A_SECOND]' lines, or env:VARIABLE; '' = no key is required",
    ] = ""
    tls_certificate: Annotated[str, "PEM file; with --tls-key"] = ""
    tls_key: Annotated[str, "PEM file; with --tls-certificate"] = ""

    access_log: Annotated[str, "file of JSON lines; - = stdout; '' = none"] = "-"
    prediction_log: Annotated[str, "directory of rotating Parquet files; '' = none"] = ""
    prediction_rows: Annotated[int, "maximum rows in a file"] = 10_000
    prediction_minutes: Annotated[float, "maximum minutes in a file"] = 5.0
    prediction_files: Annotated[int, "latest files to keep; 0 = all"] = 0
    log_hashes: Annotated[bool, "also log the SHA-256 of each image"] = False
    drift_window: Annotated[
        int, "minimum images in a window of the drift metrics; with --prediction-log; 0 = none"
    ] = 1000
    keep_images: Annotated[
        float, "share of the images to keep for labeling, such as 0.01; with --prediction-log"
    ] = 0.0
    keep_per_class: Annotated[int, "latest images of each model and class to keep"] = 1000
    keep_gib: Annotated[float, "GiB of the latest images to keep"] = 1.0
    keep_days: Annotated[float, "days after which kept images are deleted"] = 30.0


HINTS = typing.get_type_hints(Settings, include_extras=True)
# {text that completes "must be ...": (test of a value, the settings it applies to)}
RANGES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "a port, 0 to 65535": (
        lambda value: 0 <= value <= 65535,
        ("http_port", "grpc_port", "admin_port"),
    ),
    "above 0": (
        lambda value: value > 0,
        (
            "poll",
            "body_timeout",
            "timeout",
            "idle",
            "prediction_minutes",
            "keep_gib",
            "keep_days",
        ),
    ),
    "at least 0": (
        lambda value: value >= 0,
        (
            "max_batch",
            "max_tiles",
            "max_delay",
            "threads",
            "decode_threads",
            "drain",
            "start_timeout",
            "prediction_files",
            "drift_window",
        ),
    ),
    "in [0, 1]": (lambda value: 0 <= value <= 1, ("keep_images",)),
    "at least 1": (
        lambda value: value >= 1,
        (
            "max_queue",
            "max_body",
            "max_images",
            "max_pixels",
            "max_side",
            "prediction_rows",
            "keep_per_class",
        ),
    ),
}


def from_flags(argv: Sequence[str], usage: str) -> Settings:
    """Returns the `Settings` of the arguments.

    A flag overrides the file that --settings names, which overrides a default.

    Args:
        argv: arguments, without the program's name.
        usage: text that `--help` prints above the flags.

    Raises:
        UserError: a flag or key is unknown (the message names the nearest) or has a wrong type, or
            the file cannot be read.
    """
    values = _define_flags()
    if {"-h", "--help", "-help"} & set(argv):
        lines = [f"  --{flag}: {values[flag].help} ({values[flag].default!r})" for flag in values]
        print(as_called("\n".join((usage.strip(), "", *lines))))
        sys.exit(0)
    try:
        words = values([sys.argv[0], *argv])[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{first_line(error)}; see --help") from error
    for name in values:
        check_flag(name, values[name].value)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    from_file = read(values.settings) if values.settings else {}
    given = {name: values[_flag(name)].value for name in HINTS if values[_flag(name)].present}
    return Settings(**from_file | given)


def _define_flags():
    """Returns the `FlagValues` of --settings and of each setting."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "settings", "", 'JSON file of settings, such as {"max_batch": 16}', flag_values=values
    )
    define = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(Settings):
        kind, meaning = typing.get_args(HINTS[field.name])
        define[kind](_flag(field.name), field.default, meaning, flag_values=values)
    return values


def read(path: str) -> dict[str, Any]:
    """Returns the settings in a JSON file; raises `UserError` unless each exists and has its
    type."""
    try:
        document = json.loads(pathlib.Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"--settings {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--settings {path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise UserError(f'--settings {path} must hold an object, such as {{"max_batch": 16}}')
    for name, value in document.items():
        check_choice(f"{path}: the key", name, tuple(HINTS))
        kind = typing.get_args(HINTS[name])[0]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"{path}: {name} must be {KINDS[kind]}, got {json.dumps(value)}")
    return document


def check(settings: Settings) -> None:
    """Raises `UserError` if a setting is out of range, contradicts another, or names a missing
    file."""
    for name, hint in HINTS.items():
        value = getattr(settings, name)
        if typing.get_args(hint)[0] is float:
            check_range(f"--{_flag(name)}", value, math.isfinite(value), "a finite number")
    for rule, (is_inside, names) in RANGES.items():
        for name in names:
            value = getattr(settings, name)
            check_range(f"--{_flag(name)}", value, is_inside(value), rule)
    check_choice("--provider", settings.provider, tuple(PROVIDERS))
    check_choice("--proxy-header", settings.proxy_header, client_address.HEADERS)
    client_address.ClientAddresses(settings.trusted_proxies, settings.proxy_header)
    if not settings.models:
        raise UserError("which models? Give --models DIRECTORY, which holds MODEL/VERSION/ bundles")
    if not os.path.isdir(settings.models) and not links.awaited(settings.models):
        raise UserError(f"there is no directory --models {settings.models}")
    if not settings.host:
        raise UserError(
            "--host is empty: 127.0.0.1 is this machine only, 0.0.0.0 all of its addresses"
        )
    ports = [port for port in (settings.http_port, settings.grpc_port, settings.admin_port) if port]
    if len(set(ports)) < len(ports):
        raise UserError("--http-port, --grpc-port and --admin-port: two of them are the same")
    _check_queue(settings)
    for origin in origins(settings):
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise UserError(
                f"--cors-origins: {origin!r} must be as a browser sends it, such as "
                "https://a.example or http://localhost:3000, without a path"
            )
    _check_kept(settings)
    _check_tls(settings)


def origins(settings: Settings) -> list[str]:
    """Returns the origins whose pages may call the server."""
    return [text.strip() for text in settings.cors_origins.split(",") if text.strip()]


def _check_queue(settings):
    if settings.max_queue < settings.max_images:
        raise UserError(
            f"--max-queue must be at least --max-images = {settings.max_images}, or a full request "
            f"never fits; got {settings.max_queue}"
        )
    if settings.max_queue < settings.max_tiles:
        raise UserError(
            f"--max-queue must be at least --max-tiles = {settings.max_tiles}, or an image of so "
            f"many tiles never fits; got {settings.max_queue}"
        )


def _check_kept(settings):
    if settings.keep_images and not settings.prediction_log:
        raise UserError("--keep-images needs --prediction-log DIR, next to which images are kept")


def _check_tls(settings):
    if not settings.tls_certificate and not settings.tls_key:
        return
    if not settings.tls_certificate or not settings.tls_key:
        raise UserError("TLS needs both --tls-certificate and --tls-key")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_certificate, settings.tls_key, password=_no_password
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UserError(
            f"--tls-certificate {settings.tls_certificate} with --tls-key {settings.tls_key}: "
            f"{brief(error)}. They must be PEM files that belong together, the key without a "
            "password"
        ) from error


def _no_password():
    """Stands in for OpenSSL's prompt at the terminal, which a server must not show."""
    raise ValueError("the key has a password")


def _flag(name):
    return name.replace("_", "-")
