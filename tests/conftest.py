"""Fixtures that more than one folder of tests needs."""

from cluster import slurm_cluster

__all__ = ["slurm_cluster"]
