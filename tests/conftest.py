"""Fixtures that several rooms' tests share."""

from cluster import slurm_cluster  # noqa: F401  (pytest finds fixtures by name)
