"""Fixtures that more than one folder of tests needs, and who runs what where tests run in several processes (xdist)."""

import pytest
import triton_mode  # noqa: F401  first: it decides how triton is imported
from cluster import slurm_cluster

__all__ = ["slurm_cluster"]
SERVICES = ("slurm", "vllm", "megatron", "slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n`: a module stays in one process, all tests on the session's Slurm in one, and the long ones come first."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        on_cluster = "slurm_cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("slurm" if on_cluster else item.nodeid.split("::")[0]))
    items.sort(key=lambda item: ("slurm_cluster" not in getattr(item, "fixturenames", ()), not _needs_services(item)))


def _needs_services(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) is not None for name in SERVICES)
