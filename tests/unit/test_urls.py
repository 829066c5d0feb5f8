"""Which URLs can be those of a server."""

import pytest

from batchd.urls import is_http, path_of


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "https://gpu/v1",
        "http://a_b.internal:65535",
        "http://[::1]:8000/v1",
        "http://[fe80::1%eth0]:8000/v1",
        "http://bücher.example/v1",
        "http://gpu.:8000/v1",
        "http://me:word@gpu:8000/v1",
        "http://me@[::1]/v1",
        "http://[::ffff:127.0.0.1]:8000/v1",
        "http://[::1]:/v1",
    ],
)
def test_a_server_can_be_there(url: str) -> None:
    assert is_http(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gpu:8000",
        "ftp://gpu/v1",
        "http://",
        "http://:8000/v1",
        "http://gpu:0/v1",
        "http://gpu:80000/v1",
        "http://gpu:8000v1/",
        "http://gpu:-1/v1",
        "http://gpu:port/v1",
        "http://a..b/v1",
        f"http://{'a' * 64}/v1",
        "http://foo bar/v1",
        "http://a\\b/v1",
        "http://\udce9/v1",
        "http://256.0.0.1/v1",
        "http://127.1:8000/v1",
        "http://2130706433/v1",
        "http://0177.0.0.1/v1",
        "http://127.0.0.1./v1",
        "http://host%zz/",
        "http://%:1",
        "http://[::1]x:80/",
        "http://[::1]80/",
        "http://x[::1]:80/",
        "http://[::1]]/",
        "http://[]/",
        "http://[v1.x]/",
        "http://[127.0.0.1]/",
        "http://::1/",
        "http://fe80::1:80/",
        "http://[::1/v1",
        "http://[gpu]/v1",
    ],
)
def test_no_server_can_be_there(url: str) -> None:
    assert not is_http(url)


def test_a_path_is_sent_as_it_was_written_where_that_can_be() -> None:
    assert path_of("http://gpu/a%20b/v1;x=(1)") == "/a%20b/v1;x=(1)"
    assert path_of("http://gpu/a b/ü\udce9?q") == "/a%20b/%C3%BC%E9"
