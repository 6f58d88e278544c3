"""Fixtures that more than one folder of tests needs, and who runs what where tests run in several processes (xdist)."""

import re
from pathlib import Path

import pytest
import triton_mode  # noqa: F401  first: it decides how triton is imported
from cluster import slurm_cluster

__all__ = ["slurm_cluster"]
SERVICES = ("slurm", "vllm", "megatron", "slow")
ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)  # a machine without xdist runs all in one
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With `-n`: a module stays in one process, all modules on the session's Slurm in one, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return "slurm" if re.search(r"\bslurm_cluster\b", (ROOT / path).read_text()) else path

    config.option.loadscopereorder = False
    return ByModule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n` the long ones come first, so that no process is left alone with them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: ("slurm_cluster" not in getattr(item, "fixturenames", ()), not _needs_services(item)))


def _needs_services(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) is not None for name in SERVICES)
