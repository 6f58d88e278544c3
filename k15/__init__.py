"""k15: reinforcement learning for reasoning models (the Kimi k1.5 recipe) as a batch system for Slurm."""

__version__ = "0.1.0"
