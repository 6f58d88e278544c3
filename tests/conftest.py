"""Fixtures that more than one folder of tests needs."""

import triton_mode  # noqa: F401  first: it decides how triton is imported
from cluster import slurm_cluster

__all__ = ["slurm_cluster"]
