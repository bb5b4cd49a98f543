"""Stock HTTP clients against the reference of the kata: reuse, conditions, ranges, expectations, chunks, HTTP/1.0."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import httpx
import pytest

from .http import CLIENTS, HttpClient, missing
from .launch import reference

numbers = count(1)
LARGE = 1_000_000


@pytest.fixture(scope="module")
def server():
    with reference("http1") as solution:
        yield solution


@pytest.fixture
def url(server) -> str:
    host, port = server.address
    return f"http://{host}:{port}"


@pytest.fixture
def file() -> str:
    """A target of the test's own."""
    return f"/files/file-{next(numbers)}"


@pytest.fixture(params=CLIENTS)
def client(server, url, request) -> Iterator[HttpClient]:
    if why := missing(request.param):
        pytest.skip(why)
    with ExitStack() as stack:
        yield stack.enter_context(HttpClient(request.param, server.turn, url))


@pytest.fixture
def session(url) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as session:
        yield session


@pytest.fixture
def curl(url):
    """Runs curl; what it wrote to standard output."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")

    def run(*words: str, data: bytes = b"") -> bytes:
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "20", *words]
        return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout

    return run


def test_files_are_stored_read_and_deleted(client, file):
    kind = {"Content-Type": "text/plain"}
    client.begin(
        {"method": "GET", "path": file},
        {"method": "PUT", "path": file, "body": "content", "headers": kind},
        {"method": "GET", "path": file},
        {"method": "DELETE", "path": file},
        {"method": "GET", "path": file},
    )
    missing, made, got, deleted, gone = client.outcomes()
    assert [each.status for each in (missing, made, got, deleted, gone)] == [404, 201, 200, 204, 404]
    assert (got.body, got.headers["content-type"]) == ("content", "text/plain")


def test_conditions_and_ranges_are_understood(client, file):
    client.send(method="PUT", path=file, body="0123456789")
    whole = client.send(method="GET", path=file)
    etag, modified = whole.headers["etag"], whole.headers["last-modified"]
    client.begin(
        {"method": "GET", "path": file, "headers": {"If-None-Match": etag}},
        {"method": "GET", "path": file, "headers": {"If-Modified-Since": modified}},
        {"method": "GET", "path": file, "headers": {"Range": "bytes=2-4"}},
        {"method": "GET", "path": file, "headers": {"Range": "bytes=99-"}},
        {"method": "PUT", "path": file, "body": "other", "headers": {"If-Match": '"another"'}},
        {"method": "GET", "path": file},
    )
    tagged, dated, part, behind, refused, after = client.outcomes()
    assert [each.status for each in (tagged, dated, part, behind, refused)] == [304, 304, 206, 416, 412]
    assert (part.body, part.headers["content-range"]) == ("234", "bytes 2-4/10")
    assert (after.status, after.body) == (200, "0123456789")


def test_an_echo_tells_what_the_client_sent(client):
    told = json.loads(client.send(path="/echo", body="hello", headers={"X-Kata": "yes"}).body)
    assert (told["method"], told["target"], told["body"]) == ("POST", "/echo", "hello")
    assert ["x-kata", "yes"] in told["fields"]


def test_httpx_uses_its_connection_again(session, file):
    ports = set()
    for number in range(4):
        reply = session.put(file, content=b"%d" % number)
        assert reply.status_code in (201, 204)
        ports.add(reply.extensions["network_stream"].get_extra_info("client_addr")[1])
        assert session.get("/nowhere").status_code == 404
        assert session.head(file).headers["content-length"] == "1"
    assert len(ports) == 1


def test_httpx_sends_chunks(session, file):
    pieces = [bytes([number]) * 5000 for number in range(20)]
    assert session.put(file, content=iter(pieces)).status_code == 201
    assert session.get(file).content == b"".join(pieces)


def test_httpx_resumes_a_download(session, file):
    body = bytes(range(256)) * (LARGE // 256)
    session.put(file, content=body)
    with session.stream("GET", file) as reply:
        etag, begun = reply.headers["etag"], next(reply.iter_raw(70_000))
    rest = session.get(file, headers={"Range": f"bytes={len(begun)}-", "If-Range": etag})
    assert rest.status_code == 206
    assert begun + rest.content == body


def test_curl_waits_for_100_continue(curl, url, file):
    words = ("--expect100-timeout", "60", "--header", "Expect: 100-continue", "--upload-file", "-", "--verbose")
    curl(*words, "--output", "/dev/null", url + file, data=b"x" * LARGE)
    assert curl(url + file) == b"x" * LARGE


def test_curl_is_refused_before_it_sends(curl, url, file):
    words = ("--expect100-timeout", "60", "--header", "Expect: 100-continue", "--upload-file", "-")
    told = ("--header", "Content-Length: 9999999", "--header", "Transfer-Encoding:")
    status = curl(*words, *told, "--output", "/dev/null", "--write-out", "%{http_code}", url + file, data=b"x" * 10)
    assert status == b"413"


def test_curl_uses_its_connection_again(curl, url, file):
    counted = ("--write-out", "%{num_connects}")
    told = curl(
        "--data", "x", *counted, "--output", "/dev/null", f"{url}/echo", "--next", *counted, "--silent", url + file
    )
    assert told.endswith(b"0")


def test_curl_with_http_1_0_sees_the_end(curl, url):
    assert json.loads(curl("--http1.0", "--data", "old", f"{url}/echo"))["body"] == "old"


def test_curl_asks_for_what_has_changed(curl, url, file, tmp_path):
    curl("--upload-file", "-", url + file, data=b"content")
    saved = str(tmp_path / "etag")
    counted = ("--output", "/dev/null", "--write-out", "%{http_code}")
    assert curl("--etag-save", saved, *counted, url + file) == b"200"
    assert curl("--etag-compare", saved, *counted, url + file) == b"304"


def test_curl_resumes_a_download(curl, url, file, tmp_path):
    curl("--upload-file", "-", url + file, data=b"0123456789")
    begun = tmp_path / "begun"
    begun.write_bytes(b"0123")
    curl("--continue-at", "-", "--output", str(begun), url + file)
    assert begun.read_bytes() == b"0123456789"


def test_curl_reaches_it_as_a_proxy_would(curl, url):
    told = json.loads(curl("--proxy", url, "--noproxy", "", "http://other.example/echo?x"))
    assert (told["host"], told["target"]) == ("other.example", "/echo?x")
