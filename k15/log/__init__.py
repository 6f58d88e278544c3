"""What a run says about itself: log lines, metrics, phase times, a progress line, and its rollouts. Torch-free.

    get_logger(room)            ordinary log lines, named k15.<room>
    PhaseTimer                  seconds by phase of one iteration
    MetricsWriter               metrics.jsonl, TensorBoard, optional W&B
    Progress                    the live line
    RolloutLog, rollout_record  rollouts/<iteration>.jsonl.zst

The names of all metrics are in docs/metrics.md. TensorBoard, W&B and zstandard are imported when first used.
"""

from k15.log.metrics import MetricsWriter, read_metrics
from k15.log.progress import Progress
from k15.log.rollouts import RolloutLog, read_rollouts, rollout_record
from k15.log.spans import PhaseTimer
from k15.log.text import get_logger

__all__ = [
    "MetricsWriter",
    "PhaseTimer",
    "Progress",
    "RolloutLog",
    "get_logger",
    "read_metrics",
    "read_rollouts",
    "rollout_record",
]
