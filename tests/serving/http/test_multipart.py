"""Forms, whole and broken."""

import pytest

from tests.support.wire import form
from vision.serving.errors import Refused, Unreadable
from vision.serving.http.multipart import file_of

FILE = (
    b'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
    b"Content-Type: image/jpeg\r\n\r\n"
)
OTHER = b'Content-Disposition: form-data; name="other"\r\n\r\n'


def test_a_forms_file():
    content = b"\r\n--xy\r\n\r\nbytes\0"
    body = form(OTHER + b"file", FILE + content)
    assert file_of(body, "multipart/form-data; boundary=xyz") == content
    assert file_of(body, 'multipart/form-data; boundary="xyz"; charset=utf-8') == content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        form(),
        form(OTHER),
        form(FILE + b"x", end=b""),
        form(FILE[:-2] + b"x"),
        form(*[OTHER] * 20),
    ],
)
def test_a_broken_form_is_refused(body):
    with pytest.raises(Refused):
        file_of(body, "multipart/form-data; boundary=xyz")


def test_a_form_needs_a_boundary():
    with pytest.raises(Unreadable):
        file_of(form(FILE), "multipart/form-data")
