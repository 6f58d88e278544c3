"""What the tests of judge and service share: a backend with the images that they need, and a service process."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.sandbox.backends import open_backend
from k15.sandbox.client import Access
from k15.sandbox.images.build import build
from k15.sandbox.images.store import Images, cache_root
from k15.sandbox.job import Backend
from k15.sandbox.languages import LANGUAGES
from k15.sandbox.precompiled import precompile

TOKEN = "a-token-for-tests-only"


@pytest.fixture(scope="session")
def backend() -> Iterator[Backend]:
    """The strongest backend that works here, with Python and Bash."""
    need("base")
    with contextlib.closing(open_backend("auto")) as opened:
        yield opened


def need(*images: str) -> None:
    """Build what is missing; test processes wait for each other. A built image stays in the cache."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".tests-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in dict.fromkeys(images) if name not in Images().names()]
        if missing:
            build(missing)
        if "cpp" in images:
            with contextlib.closing(open_backend("auto")) as opened:
                precompile(opened, Images().rootfs("cpp"), "cpp")


def need_language(name: str) -> None:
    need(LANGUAGES[name].image)


class Served:
    """A service process on a state directory; `kill` and `start` again as often as wanted."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self._options = folder, options
        self._token, self._url = folder / "token", folder / "url"
        self._token.write_text(TOKEN + "\n")
        self.start()

    def start(self) -> None:
        self._url.unlink(missing_ok=True)
        port = ["--port", self.access.url.rsplit(":", 1)[1]] if hasattr(self, "access") else []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "k15", "sandbox", "serve", "--token-file", self._token, "--url-file", self._url,
                 "--state-dir", self.folder / "state", *port, *self._options],
                stdout=log, stderr=log, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while not self._url.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        self.access = Access(self._url.read_text(), TOKEN)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        """As the OOM killer or a power cut does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[Served]:
    """A service that ends with the block."""
    service = Served(folder, *options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.kill()
