"""The client's address behind proxies: only what a trusted one wrote counts."""

import pytest

from vision.serving.client_address import MAX_HOPS, ClientAddresses

TRUSTED = "10.0.0.0/8, 192.0.2.7,fd00::/8"
# (the peer, the values of X-Forwarded-For, the client)
FORWARDED_FOR = [
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
    ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # the first is the client's invention
    ("10.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),  # so is the first of two lines
    ("10.0.0.1", ["198.51.100.1, 192.0.2.7, 10.9.9.9"], "198.51.100.1"),
    ("10.0.0.1", ["10.2.2.2, 10.9.9.9"], "10.2.2.2"),  # a client of the inner network
    ("198.51.100.9", ["1.2.3.4"], "198.51.100.9"),  # it came past the proxy
    ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
    ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
    ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
    ("10.0.0.1", ["198.51.100.1:51234"], "198.51.100.1"),
    ("10.0.0.1", ["[2001:db8::1]:51234"], "2001:db8::1"),
    ("10.0.0.1", ["unknown"], "10.0.0.1"),
    ("10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
    ("10.0.0.1", ["6.6.6.6,"], "10.0.0.1"),
    ("10.0.0.1", ["\x1b[31m, 127.0.0.1\r\n"], "127.0.0.1"),
    ("10.0.0.1", ["9" * 60_000], "10.0.0.1"),
    ("10.0.0.1", ["6.6.6.6," + "10.0.0.2," * 9_999 + "10.0.0.2"], "10.0.0.2"),
    ("", ["1.2.3.4"], ""),
]


@pytest.mark.parametrize(("peer", "values", "client"), FORWARDED_FOR)
def test_the_client_is_the_last_that_is_not_trusted(peer, values, client):
    headers = [("host", "a"), *(("x-forwarded-for", value) for value in values)]
    assert ClientAddresses(TRUSTED, "x-forwarded-for").client(peer, headers) == client


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["for=198.51.100.1"], "198.51.100.1"),
        (["for=6.6.6.6, For=198.51.100.1:80;proto=https;by=10.0.0.1"], "198.51.100.1"),
        (['proto=http;for="[2001:db8::1]:4711"'], "2001:db8::1"),
        (["for=6.6.6.6", "for=198.51.100.1, for=10.0.0.9"], "198.51.100.1"),
        (["for=_hidden"], "10.0.0.1"),
        (["for=6.6.6.6, proto=https"], "10.0.0.1"),
    ],
)
def test_the_standard_header(values, client):
    headers = [("x-forwarded-for", "6.6.6.6"), *(("forwarded", value) for value in values)]
    assert ClientAddresses(TRUSTED, "forwarded").client("10.0.0.1", headers) == client


def test_without_trusted_proxies_no_header_counts():
    headers = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")]
    for header in ("x-forwarded-for", "forwarded"):
        assert ClientAddresses("", header).client("127.0.0.1", headers) == "127.0.0.1"
    assert MAX_HOPS < 100
