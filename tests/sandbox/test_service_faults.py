"""The service when something fails: its journal's disk, its sandbox, or the patience of those who wait for it."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from judging import TOKEN, need, served

from k15.errors import ConfigError, SandboxError
from k15.sandbox.client import Access, Case, SandboxClient, Submission
from k15.sandbox.journal import Journal
from k15.sandbox.metrics import Metrics
from k15.sandbox.queue import Queue

SLEEPER = "import time\ntime.sleep(0.7)\nprint(input())"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


def echo(word: str, source: str = "print(input())") -> Submission:
    return Submission("python", source, (Case(word, word),))


def body(word: str, id: str, **more) -> dict:
    return {"language": "python", "source": "print(input())", "tests": [{"stdin": word, "expected": word}], "id": id, **more}


def test_patience_measures_silence_and_not_a_full_queue(tmp_path):
    """A busy service answers, so it is waited for; a queue that does not move has an end of its own."""
    need("base")
    with served(tmp_path, "--workers", "1", "--queue-size", "1") as service, ThreadPoolExecutor(1) as pool:
        url = service.access.url
        slow = pool.submit(
            requests.post, f"{url}/judge", json=body("x", "slow", source=SLEEPER.replace("0.7", "3.5")), headers=AUTH, timeout=60
        )
        _until(lambda: SandboxClient(service.access).health()["waiting"] == 1)
        hasty = Access(url, TOKEN, patience_s=0.4, queue_patience_s=1.0)
        with SandboxClient(hasty) as client, pytest.raises(SandboxError, match="busy for queue_patience_s=1"):
            client.judge(echo("x"))
        waiting = Access(url, TOKEN, timeout_s=0.5, patience_s=0.4, queue_patience_s=60.0)  # it reads no answer in time, either
        with SandboxClient(waiting) as client:
            assert client.judge(echo("x", source=SLEEPER.replace("0.7", "1.2"))).verdict == "AC"
        assert slow.result().json()["verdict"] == "AC"


def test_a_full_disk_loses_no_verdict_and_stops_no_worker(tmp_path):
    """The kernel refuses every write beyond the journal's present size, as a full disk does, and then has room again."""
    need("base")
    resource = pytest.importorskip("resource")

    def post(path: str, **more) -> requests.Response:
        return requests.post(f"{url}/{path}", json=more, headers=AUTH, timeout=30)

    with served(tmp_path, "--workers", "1", "--keep-s", "600") as service:
        url, pid = service.access.url, service.process.pid
        told = post("judge", **body("x", "told")).text
        assert post("judge?wait=0", **body("x", "held", source=SLEEPER)).status_code == 202
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        size = (tmp_path / "state/journal.sqlite-wal").stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, most))
        for path in ("judge?wait=0", "judge", "judge?wait=0"):
            refused = post(path, **body("x", path.replace("?wait=0", "-new")))
            assert (refused.status_code, refused.json()["busy"]) == (503, True) and int(refused.headers["Retry-After"]) > 0
            assert "journal cannot be written" in refused.json()["error"]
        assert post("judge", **body("x", "told")).text == told, "what was told stays"
        free = {k: v for k, v in body("x", "").items() if k != "id"}
        assert post("judge", **free).json()["verdict"] == "AC", "without an id nothing need be written"
        _until(lambda: SandboxClient(service.access).health()["waiting"] == 1)
        assert requests.get(f"{url}/results/held", headers=AUTH, timeout=30).status_code == 202, "promised, done, not yet written"
        assert "cannot be written" in SandboxClient(service.access).health()["journal"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        _until(lambda: requests.get(f"{url}/results/held", headers=AUTH, timeout=30).status_code == 200)
        assert post("judge", **body("x", "judge")).json()["verdict"] == "AC"
        assert SandboxClient(service.access).health()["journal"] == "ok"
        service.kill()
        service.start()
        assert post("judge", **body("x", "told")).text == told
        assert requests.get(f"{service.access.url}/results/held", headers=AUTH, timeout=30).json()["verdict"] == "AC"
        assert "cannot be written" in service.log() and "can be written again" in service.log()


async def test_a_failing_action_of_the_journal_fails_alone(tmp_path):
    """Whatever is raised in the journal's thread: its neighbours in the same commit are written, and the thread goes on."""
    journal = Journal(tmp_path / "journal.sqlite", keep_s=0.0)
    bad = journal._do(lambda db: db.execute("SELECT nothing FROM nowhere"))
    worse = journal._do(lambda db: 1 / 0, writes=True)
    good = [journal.finish(str(i), "d", "judge", 200, {"i": i}) for i in range(20)]
    results = await asyncio.gather(bad, *good[:10], worse, *good[10:], return_exceptions=True)
    assert [i for i, r in enumerate(results) if isinstance(r, SandboxError)] == [0, 11]
    assert [(await journal.find(str(i))).result for i in range(20)] == [{"i": i} for i in range(20)]
    assert journal.failing is None and await journal.purge() == 20
    journal.close()


def _until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_promise_survives_a_sandbox_that_fails(tmp_path):
    """202 was told: the request is done once the sandbox works again, in this process or the next, and never scored meanwhile."""
    works = threading.Event()

    def execute(_kind: str, body: dict) -> dict:
        if not works.is_set():
            raise SandboxError("no cgroup to be had")
        return {"verdict": body["v"]}

    journal = Journal(tmp_path / "journal.sqlite")
    queue = Queue(execute, journal, 2, 10, Metrics())
    assert (await queue.submit("judge", {"v": "AC"}, "a", wait=False)).status == 202
    while (answer := await queue.result("a")).status == 202:
        await asyncio.sleep(0.01)
    assert answer.status == 503 and (await queue.submit("judge", {"v": "AC"}, "b", wait=True)).status == 503
    works.set()
    assert (await queue.submit("judge", {"v": "AC"}, "a", wait=False)).status == 202
    assert (await queue.submit("judge", {"v": "AC"}, "a", wait=True)).body == {"verdict": "AC"}
    with pytest.raises(ConfigError, match="another request"):
        await queue.submit("judge", {"v": "WA"}, "a", wait=True)
    await journal.accept("c", "digest", "judge", {"v": "WA"})  # and then the process dies
    await queue.close(1.0)
    journal.close()
    again = Journal(tmp_path / "journal.sqlite", keep_s=0.0)
    queue = Queue(execute, again, 2, 10, Metrics())
    assert await queue.recover() == 1
    while (answer := await queue.result("c")).status == 202:
        await asyncio.sleep(0.01)
    assert answer.body == {"verdict": "WA"} and (await queue.result("a")).body == {"verdict": "AC"}
    assert await again.purge() == 2 and (await queue.result("a")).status == 404
    await queue.close(1.0)
    again.close()
