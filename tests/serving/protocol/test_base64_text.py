"""Base64 in each form that clients write it, and what is none."""

import base64
import textwrap
import urllib.parse

import numpy as np
import pytest

from vision.serving.errors import Refused
from vision.serving.protocol.base64_text import decode_base64

FORMS = {
    "plain": lambda text: text,
    "data URI": lambda text: f"data:image/jpeg;base64,{text}",
    "data URI in capitals": lambda text: f"DATA:image/png;charset=utf-8;BASE64,{text}",
    "data URI, percent-encoded": lambda text: "data:;base64," + urllib.parse.quote(text, safe=""),
    "percent-encoded": lambda text: urllib.parse.quote(text, safe=""),
    "lines": lambda text: "\n".join(textwrap.wrap(text, 76)) + "\n",
    "lines of CRLF": lambda text: "\r\n".join(textwrap.wrap(text, 64)) + "\r\n",
    "indented lines": lambda text: "".join(f"\n    {line}" for line in textwrap.wrap(text, 76)),
    "a data URI in lines": lambda text: (
        "data:image/png;base64,\n" + "\n".join(textwrap.wrap(text, 76))
    ),
    "lines joined by blanks": lambda text: " ".join(textwrap.wrap(text, 76)),
    "a last newline": lambda text: f"{text}\n",
    "a last CRLF": lambda text: f"{text}\r\n",
    "blanks around it": lambda text: f"  {text} \n",
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "URL-safe, no padding": lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    "no padding": lambda text: text.rstrip("="),
    "+ as a blank": lambda text: text.replace("+", " "),
    "+ as a blank in a data URI": lambda text: "data:image/png;base64," + text.replace("+", " "),
    "+ as a blank, no padding": lambda text: text.replace("+", " ").rstrip("="),
    "+ as a blank in lines": lambda text: "\n".join(
        text.replace("+", " ")[i : i + 76] for i in range(0, len(text), 76)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_bytes(form):
    random = np.random.default_rng(0)
    for size in (*range(3, 40), *range(1_000, 1_050), 100_000):
        data = b"\xff\xd8\xff" + random.bytes(size)  # no image begins with a +
        assert decode_base64(FORMS[form](base64.b64encode(data).decode())) == data, size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (5, "got a JSON number"),
        (None, "got a JSON null"),
        ([1, 2], "got a JSON list"),
        ("data:image/svg+xml,<svg/>", "the data URI is not base64"),
        ("data:image/png;base64", "the data URI is not base64"),
        ("https://example.com/photo.jpg", "the server fetches nothing"),
        ("photos/cat-1.jpg", "the name of a file"),
        ("b'/9j/4AAQ'", "form of Python bytes"),
        ("YWI=YWI=", "continues after its padding"),
        ("YWJj\u00e9YWJj", "character 4 is '\\xe9'"),
        ("YWJj\0", "character 4 is '\\x00'"),
        ("YWJjY", "cut short: 5 characters"),
        ("\ud800", "character 0 is '\\ud800'"),
    ],
)
def test_what_is_no_base64_is_refused_with_the_reason(text, reason):
    with pytest.raises(Refused) as error:
        decode_base64(text)
    assert reason in error.value.message and len(error.value.message) < 200
    assert error.value.message.startswith("an encoded image in JSON must be a base64 string")
