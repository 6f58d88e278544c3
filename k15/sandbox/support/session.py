"""Inside the sandbox: a Jupyter kernel over ipc, and the two pipes by which the service speaks with it.

/dev/cells    in:   {"id": 1, "code": "..."} | {"interrupt": true}       one JSON object a line
/dev/replies  out:  {"ready": true} | {"id": 1, "status": "ok", "outputs": [{"type": ..., ...}, ...]}
"""

import json
import os
import queue
import sys
import threading
import time

MAX_REPLY = 1 << 19
os.environ.update(HOME="/tmp", IPYTHONDIR="/tmp/ipython", JUPYTER_RUNTIME_DIR="/tmp/runtime", JUPYTER_DATA_DIR="/tmp/data")
# ipykernel wants a TCP port for what subprocesses print, and does without where it gets an error; ZeroMQ itself would abort,
# since the sandbox has no TCP.
KERNEL = """
import zmq
def refuse(self, *args, **more): raise zmq.ZMQError(zmq.EPROTONOSUPPORT)
zmq.Socket.bind_to_random_port = refuse
import sys, warnings
warnings.simplefilter("ignore")
sys.modules["debugpy"] = None  # a second of imports that nobody asked for
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


def main():
    cells = open("/dev/cells", encoding="utf-8")  # noqa: SIM115
    replies = open("/dev/replies", "w", encoding="utf-8")  # noqa: SIM115
    try:
        from jupyter_client.manager import KernelManager
    except ImportError as error:
        say(replies, {"ready": False, "error": f"this image has no Jupyter kernel: {error}"})
        return
    spec = {"argv": [sys.executable, "-c", KERNEL, "-f", "{connection_file}", "--HistoryManager.enabled=False"],
            "display_name": "k15", "language": "python"}  # fmt: skip
    os.makedirs("/tmp/data/kernels/k15")
    with open("/tmp/data/kernels/k15/kernel.json", "w") as file:
        json.dump(spec, file)
    manager = KernelManager(kernel_name="k15", transport="ipc", ip="/tmp/kernel")
    manager.start_kernel(env={**os.environ}, stdout=2)
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    say(replies, {"ready": True})
    todo = queue.Queue()
    threading.Thread(target=listen, args=(cells, todo, manager), daemon=True).start()
    threading.Thread(target=watch, args=(manager,), daemon=True).start()
    while True:
        cell = todo.get()
        say(replies, {"id": cell["id"], **execute(client, cell["code"])})


def listen(cells, todo, manager):
    """Interrupts do not wait behind the cell that they are meant for."""
    for line in cells:
        message = json.loads(line)
        if message.get("interrupt"):
            manager.interrupt_kernel()
        else:
            todo.put(message)
    os._exit(0)


def watch(manager):
    """The sandbox ends with its kernel: nobody else would notice, and the service tells a session that has ended."""
    while manager.is_alive():
        time.sleep(0.2)
    os._exit(1)


def execute(client, code):
    """Run a cell to its end; its outputs in order, streams of one name that follow each other joined."""
    outputs, size = [], 0

    def take(message):
        nonlocal size
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            found = {"type": "stream", "name": content["name"], "text": content["text"]}
        elif kind in ("execute_result", "display_data"):
            found = {"type": kind, "data": content["data"]}
        elif kind == "error":
            found = {"type": "error", "name": content["ename"], "value": content["evalue"], "traceback": content["traceback"]}
        else:
            return
        size += len(json.dumps(found))
        if size > MAX_REPLY:
            if outputs[-1:] != [{"type": "truncated"}]:
                outputs.append({"type": "truncated"})
        elif outputs and found["type"] == "stream" and outputs[-1].get("name") == found["name"]:
            outputs[-1]["text"] += found["text"]
        else:
            outputs.append(found)

    try:
        reply = client.execute_interactive(code, allow_stdin=False, output_hook=take)
    except RuntimeError as error:  # the kernel has died
        return {
            "status": "dead",
            "outputs": [*outputs, {"type": "error", "name": "DeadKernel", "value": str(error), "traceback": []}],
        }
    return {"status": reply["content"]["status"], "outputs": outputs}


def say(replies, message):
    replies.write(json.dumps(message) + "\n")
    replies.flush()


main()
