"""The policy mirror descent loss of the report (2.3.2)."""

from .api import pmd_loss, segment_log_ratio, warm_up
from .naive import pmd_loss_naive

__all__ = ["pmd_loss", "pmd_loss_naive", "segment_log_ratio", "warm_up"]
