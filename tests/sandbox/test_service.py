"""The service as users run it: a process, HTTP, a token, a bounded queue, and a journal that survives kill -9."""

import asyncio
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from judging import TOKEN, Served, need, served
from prometheus_client.parser import text_string_to_metric_families

from k15.errors import ConfigError, DataError, SandboxError
from k15.sandbox.client import Access, AsyncSandboxClient, Case, SandboxClient, Submission
from k15.sandbox.job import Job, Limits
from k15.sandbox.service import ServiceSettings

SLEEPER = "import time\ntime.sleep(0.7)\nprint(input())"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


def echo(word: str, expected: str | None = None, source: str = "print(input())") -> Submission:
    return Submission("python", source, (Case(word, expected if expected is not None else word),))


def body(word: str, id: str, **more) -> dict:
    return {"language": "python", "source": "print(input())", "tests": [{"stdin": word, "expected": word}], "id": id, **more}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    need("base")
    with served(tmp_path_factory.mktemp("service"), "--workers", "2", "--queue-size", "6", "--max-request-mb", "1") as running:
        yield running


def test_both_clients_judge_and_run(service: Served):
    job = Job(("sh", "-c", "cat; printf '\\377' >&2; cat f > g; exit 3"), stdin=b"in", files={"f": b"\x00\xfe"}, keep=("g",))
    with SandboxClient(service.access) as client:
        assert client.judge(echo("x")).verdict == "AC"
        results = client.judge_all([echo("x", "y"), echo("x"), Submission("php", "", (Case("", ""),), image="base-not")])
        assert [r.verdict for r in results[:2]] == ["WA", "AC"] and isinstance(results[2], ConfigError)
        outcome = client.run(job)
        health = client.health()
    assert (outcome.exit_code, outcome.stdout, outcome.stderr, outcome.kept) == (3, b"in", b"\xff", {"g": b"\x00\xfe"})
    assert health["status"] == "ok" and "python" in health["languages"] and "base" in health["images"]


async def test_the_asyncio_client_waits_its_turn_when_the_queue_is_full(service: Served):
    async with AsyncSandboxClient(service.access) as client:
        results = await asyncio.gather(*(client.judge(echo(str(i), str(i - i % 3))) for i in range(30)))
    assert [r.verdict == "AC" for r in results] == [i % 3 == 0 for i in range(30)]


def test_who_may_ask(service: Served):
    url = service.access.url
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN} "[:-2]}):
        answer = requests.post(f"{url}/judge", json=body("x", "a"), headers=headers, timeout=10)
        assert answer.status_code == 401 and TOKEN not in answer.text
    assert requests.get(f"{url}/metrics", timeout=10).status_code == 401
    assert requests.get(f"{url}/health", timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("judge", b"{", 400, "not JSON"),
        ("judge", b"[]", 400, "JSON object"),
        ("judge", b'{"language": "pyton", "source": ""}', 400, "Did you mean"),
        ("run", b'{"command": ["true"], "image": "../etc"}', 400, "is not here"),
        ("run", b'{"command": ["true"], "files": {"../x": ""}}', 400, ".."),
        ("judge", b'{"x": "' + b"y" * (2 << 20) + b'"}', 413, ""),
        ("judge?wait=0", b'{"language": "python", "source": "", "harness": ""}', 400, "needs an id"),
        ("judge", b'{"id": "a/b", "language": "python", "source": "", "harness": ""}', 400, "`id` must be"),
        ("nothing", b"{}", 404, ""),
    ],
)
def test_bad_requests_get_their_reason(service: Served, path, sent, status, said):
    answer = requests.post(f"{service.access.url}/{path}", data=sent, headers=AUTH, timeout=10)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_it_may_have_as_many_descriptors_as_the_machine_allows(service: Served):
    soft, hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
    assert soft >= (1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16))


def test_an_id_stands_for_one_request(service: Served):
    url = service.access.url
    first = requests.post(f"{url}/judge", json=body("x", "one"), headers=AUTH, timeout=30)
    again = requests.post(f"{url}/judge", json=body("x", "one"), headers=AUTH, timeout=30)
    assert first.status_code == 200 and again.text == first.text, "the very same answer, its times included"
    assert requests.post(f"{url}/judge", json=body("y", "one"), headers=AUTH, timeout=30).status_code == 409
    assert requests.get(f"{url}/results/one", headers=AUTH, timeout=30).text == first.text
    assert requests.get(f"{url}/results/two", headers=AUTH, timeout=30).status_code == 404


def test_a_full_queue_pushes_back(service: Served):
    url, statuses, lock = service.access.url, [], threading.Lock()

    def ask(i: int) -> None:
        answer = requests.post(f"{url}/judge", json=body("x", f"full-{i}", source=SLEEPER), headers=AUTH, timeout=60)
        with lock:
            statuses.append((answer.status_code, answer.headers.get("Retry-After")))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(ask, range(20)))
    refused = [after for status, after in statuses if status == 429]
    assert {status for status, _ in statuses} == {200, 429} and len(refused) >= 20 - 2 * 6
    assert all(after is not None and 1 <= int(after) <= 60 for after in refused)


def test_metrics_are_prometheus_text(service: Served):
    text = requests.get(f"{service.access.url}/metrics", headers=AUTH, timeout=10).text
    values = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in text_string_to_metric_families(text) for s in f.samples}
    verdicts = {labels: value for (name, labels), value in values.items() if name == "k15_sandbox_verdicts_total"}
    assert verdicts[(("language", "python"), ("verdict", "AC"))] >= 10
    assert values[("k15_sandbox_waiting", ())] == 0 and values[("k15_sandbox_busy", ())] == 0


def test_a_kill_under_load_loses_no_verdict(tmp_path):
    """Accepted before the kill: judged after it. Told before the kill: told the same after it. Clients notice nothing."""
    need("base")
    wanted = {f"r{i}": "AC" if i % 3 else "WA" for i in range(40)}
    with served(tmp_path, "--workers", "2") as service:
        url, told, kills = service.access.url, {}, 0
        for id in wanted:
            answer = requests.post(f"{url}/judge?wait=0", json=_numbered(id), headers=AUTH, timeout=30)
            assert answer.status_code == 202
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(_patient, service.access, i) for i in range(24)]
            while kills < 2:
                told |= _answers(url, wanted.keys() - told.keys())
                if len(told) >= (4, 16)[kills]:
                    service.kill()
                    service.start()
                    kills += 1
            assert kills == 2 and "requests again that were accepted" in service.log()
            assert [c.result() for c in clients] == ["AC" if i % 2 else "WA" for i in range(24)]
        deadline = time.monotonic() + 120
        answers: dict[str, str] = {}
        while len(answers) < len(wanted) and time.monotonic() < deadline:
            answers |= _answers(url, wanted.keys() - answers.keys())
        assert {id: requests.models.complexjson.loads(text)["verdict"] for id, text in answers.items()} == wanted
        assert {id: answers[id] for id in told} == told
        assert service.stop() == 0


def _numbered(id: str) -> dict:
    number = int(id[1:])  # slow enough that work is left at each kill
    return body(
        f"{number}",
        id,
        source=SLEEPER.replace("0.7", "0.3"),
        tests=[{"stdin": f"{number}", "expected": f"{number if number % 3 else -1}"}],
    )


def _answers(url: str, ids: set[str]) -> dict[str, str]:
    """Texts of the answers that are there by now."""
    texts = {}
    for id in sorted(ids):
        answer = requests.get(f"{url}/results/{id}", headers=AUTH, timeout=30)
        assert answer.status_code in (200, 202), f"{id}: {answer.status_code} {answer.text}"
        if answer.status_code == 200:
            texts[id] = answer.text
    return texts


def _patient(access: Access, i: int) -> str:
    with SandboxClient(access) as client:
        return client.judge(echo(str(i), str(i if i % 2 else -1), SLEEPER.replace("0.7", "0.05"))).verdict


def test_a_stop_finishes_what_runs(tmp_path):
    need("base")
    with served(tmp_path, "--workers", "1") as service, ThreadPoolExecutor(2) as pool:
        running = pool.submit(
            requests.post, f"{service.access.url}/judge", json=body("x", "a", source=SLEEPER), headers=AUTH, timeout=30
        )
        while SandboxClient(service.access).health()["waiting"] == 0:
            time.sleep(0.02)
        assert service.stop() == 0
        assert running.result().json()["verdict"] == "AC"


def test_two_services_do_not_share_a_journal(tmp_path):
    need("base")
    with served(tmp_path) as service:
        second = tmp_path / "second"
        second.mkdir()
        with (
            pytest.raises(AssertionError, match="Is another service using it"),
            served(second, "--state-dir", str(tmp_path / "state")),
        ):
            pass
        assert SandboxClient(service.access).health()["status"] == "ok"


def test_settings_that_are_not_safe_are_refused(tmp_path):
    wrong = [
        ({"token": "short"}, "at least 16"), ({"host": "0.0.0.0"}, "every interface"), ({"host": "::"}, "every interface"),
        ({"host": ""}, "every interface"), ({"workers": 0}, "workers is 0"),
    ]  # fmt: skip
    for more, message in wrong:
        with pytest.raises(ConfigError, match=message):
            ServiceSettings(**{"token": TOKEN, "state_dir": tmp_path, **more})


def test_a_service_that_is_not_there_is_an_error_after_patience():
    access = Access("http://127.0.0.1:9", TOKEN, patience_s=0.5)
    with pytest.raises(SandboxError, match="cannot be reached"), SandboxClient(access) as client:
        client.judge(echo("x"))
    with pytest.raises(ConfigError, match="token_file"):
        Access.of("http://127.0.0.1:9", None)


def test_a_wrong_job_is_not_tried_again(service: Served):
    start = time.monotonic()
    with SandboxClient(service.access) as client, pytest.raises((DataError, ConfigError)):
        client.run(Job(("true",), image="nowhere", limits=Limits()))
    assert time.monotonic() - start < 5
