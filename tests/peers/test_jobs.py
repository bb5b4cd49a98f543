"""The upstream service that the harness plays, as clients that nobody here wrote meet it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from clients.http import CLIENTS, HttpClient, missing

from harness.peers.jobs import Jobs, result

from .stage import Stage


@pytest.fixture(scope="module")
def jobs_for_all(tmp_path_factory) -> Iterator[Jobs]:
    stage = Stage()
    stage.folder = tmp_path_factory.mktemp("solution")
    (stage.folder / "state").mkdir()
    yield Jobs(stage)
    stage.close()


@pytest.fixture
def jobs(jobs_for_all) -> Jobs:
    jobs_for_all.begin()
    return jobs_for_all


@pytest.fixture(params=CLIENTS)
def client(request, jobs) -> Iterator[HttpClient]:
    if why := missing(request.param):
        pytest.skip(why)
    with ExitStack() as stack:
        yield stack.enter_context(HttpClient(request.param, jobs.solution.turn, jobs.environment()["UPSTREAM_URL"]))


@pytest.fixture
def quick(jobs) -> Iterator[HttpClient]:
    """For what does not depend on the client."""
    with HttpClient("with_http_client.py", jobs.solution.turn, jobs.environment()["UPSTREAM_URL"]) as client:
        yield client


def get(name: str) -> dict[str, str]:
    return {"method": "GET", "path": f"/jobs/{name}"}


def test_a_job_is_done_at_once(client, jobs):
    client.begin(get("a"), get("b"), {"method": "GET", "path": "/nowhere"}, {"method": "POST", "path": "/jobs/c"})
    first, second, other, posted = client.outcomes()
    assert (first.status, first.body, second.body) == (200, result("a"), result("b"))
    assert (other.status, posted.status) == (404, 404)
    assert jobs.asked == ["a", "b"]


def test_a_job_is_held_until_it_is_finished(client, jobs):
    with jobs.holding():
        client.begin(get("a"))
        jobs.solution.until(lambda: jobs.held, "a held job")
        assert [held.name for held in jobs.held] == ["a"]
        jobs.finish("a")
        assert not jobs.held
        assert client.outcome().body == result("a")


def test_the_end_of_holding_finishes_all(quick, jobs):
    with jobs.holding():
        quick.begin(get("a"))
        jobs.solution.until(lambda: jobs.held, "a held job")
        jobs.finish("another")
        assert jobs.held
    assert quick.outcome().body == result("a")


def test_jobs_fail_while_they_are_told_to(quick, jobs):
    with jobs.failing(500):
        assert quick.send(**get("a")).status == 500
    assert quick.send(**get("a")).status == 200


def test_a_new_behaviour_finds_nothing_of_the_last(quick, jobs):
    with jobs.holding():
        quick.begin(get("a"))
        jobs.solution.until(lambda: jobs.held, "a held job")
        jobs.begin()
        assert quick.outcome().status == 200
        assert (jobs.asked, jobs.held) == ([], [])
        assert quick.send(**get("b")).status == 200, "nothing is held any more"


def test_the_file_holds_the_release(jobs):
    jobs.deploy("r7")
    assert jobs.file.read_text() == "r7\n"
    assert jobs.environment()["RELEASE_FILE"] == str(jobs.file)
    jobs.undeploy()
    assert not jobs.file.exists()
    jobs.deploy("r8")
