"""A real sandbox service with Python, for all tests of this folder."""

import pytest

from k15.runs.own_sandbox import own_sandbox
from k15.sandbox.client import SandboxClient
from k15.sandbox.images.build import build


@pytest.fixture(scope="session")
def access(tmp_path_factory):
    build(["base"])
    with own_sandbox(2, tmp_path_factory.mktemp("sandbox") / "log") as found:
        yield found


@pytest.fixture
def client(access):
    with SandboxClient(access) as connected:
        yield connected
