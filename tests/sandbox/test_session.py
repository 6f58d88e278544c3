"""Jupyter sessions through the service: state between cells, interrupts, limits, idle time, and nothing left behind."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from judging import TOKEN, Served, need, served

from k15.sandbox.images.store import cache_root

pytestmark = pytest.mark.slow  # a kernel takes seconds to start
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    need("base", "jupyter")
    with served(tmp_path_factory.mktemp("sessions"), "--sessions", "2", "--session-idle-s", "20") as running:
        yield running
        assert running.stop() == 0
    assert not list((cache_root() / "sessions").iterdir())


def call(service: Served, method: str, path: str, status: int = 200, **body) -> dict:
    answer = requests.request(method, f"{service.access.url}/session{path}", json=body, headers=AUTH, timeout=150)
    assert answer.status_code == status, answer.text
    return answer.json()


def run(service: Served, id: str, code: str, status: int = 200, **more) -> dict:
    return call(service, "POST", f"/{id}/execute", status, code=code, **more)


def text(reply: dict) -> str:
    return "".join(o.get("text", "") for o in reply["outputs"])


def test_a_session_from_start_to_end(service: Served):
    id = call(service, "POST", "", 201)["session"]
    assert run(service, id, "x = 41\nprint('hello')") == {
        "status": "ok", "outputs": [{"type": "stream", "name": "stdout", "text": "hello\n"}],
    }  # fmt: skip
    assert run(service, id, "x + 1")["outputs"][0]["data"]["text/plain"] == "42"
    failed = run(service, id, "x / 0")
    assert failed["status"] == "error" and failed["outputs"][0]["name"] == "ZeroDivisionError"
    inside = "import os, socket\nprint(os.getuid(), 'K15_SANDBOX_TOKEN' in os.environ, os.path.exists('/etc/shadow'))"
    assert text(run(service, id, inside)) == "65534 False False\n"
    assert run(service, id, "socket.socket(socket.AF_INET)")["status"] == "error"
    late = run(service, id, "import time\nwhile True: time.sleep(0.01)", timeout_s=1.5)
    assert late["status"] == "timeout" and late["outputs"][-1]["name"] == "KeyboardInterrupt"
    threading.Timer(1.0, lambda: call(service, "POST", f"/{id}/interrupt")).start()
    assert run(service, id, "time.sleep(60)")["outputs"][-1]["name"] == "KeyboardInterrupt"
    assert text(run(service, id, "print(x)")) == "41\n", "state outlives errors and interrupts"
    flood = run(service, id, "for i in range(300): print('y' * 10000)")
    assert flood["outputs"][-1] == {"type": "truncated"} and len(text(flood)) < 1 << 20
    call(service, "DELETE", f"/{id}")
    assert "no session" in run(service, id, "1", 422)["error"]


def test_a_session_closed_while_a_cell_runs_and_another_waits(service: Served):
    """Its descriptors' numbers may be anybody's by then: neither cell may touch them."""
    id = call(service, "POST", "", 201)["session"]
    with ThreadPoolExecutor(2) as pool:
        cells = [pool.submit(run, service, id, "import time; time.sleep(60)", 422)]
        time.sleep(0.5)
        cells.append(pool.submit(run, service, id, "1", 422))
        time.sleep(0.5)
        call(service, "DELETE", f"/{id}")
        said = [cell.result()["error"] for cell in cells]
    assert "closed while the cell ran" in said[0] and "no session" in said[1], said


def test_sessions_are_apart_few_and_end_when_idle(service: Served):
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: call(service, "POST", "", 201)["session"], range(2))
    path = text(
        run(service, one, "import os; secret = 1; open('secret', 'w').write('1'); print(os.path.abspath('secret'))")
    ).strip()
    assert text(run(service, one, f"print(open({path!r}).read())")) == "1\n"
    assert run(service, two, "secret")["status"] == "error"
    assert run(service, two, f"open({path!r})")["status"] == "error"
    assert "all that this service allows" in call(service, "POST", "", 400)["error"]
    assert "limit of memory" in run(service, one, "y = bytearray(3 << 30)", 422)["error"]
    deadline = time.monotonic() + 60
    while requests.get(f"{service.access.url}/metrics", headers=AUTH, timeout=10).text.find("k15_sandbox_sessions 0.0") < 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "been idle" in run(service, two, "1", 422)["error"]


def test_wrong_requests(service: Served):
    assert "is not here" in call(service, "POST", "", 400, image="nowhere")["error"]
    assert "memory_mb" in call(service, "POST", "", 400, memory_mb=-1)["error"]
    assert "no Jupyter kernel" in call(service, "POST", "", 422, image="base")["error"]
    call(service, "POST", "/none/execute", 422, code="1")
