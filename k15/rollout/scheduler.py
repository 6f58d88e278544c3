"""vLLM's own scheduler with a faster repetition check; engines get it by `--scheduler-cls k15.rollout.scheduler.scheduler`.

It also binds the engine's process to its server's: vLLM's goes on, with all its memory, when the server is killed.

After every token of every sequence vLLM compares all periods in a Python loop: 14 us at max_period 16, 0.1 ms at 128,
1 ms at 1024 a token a sequence, while the engine waits. `TailWatch` gives the same verdicts in 2 to 4 us, whatever the period.
Only that function is replaced, in the process of the engine's scheduler; when it is asked stays vLLM's choice.
"""

import copy
import multiprocessing
from collections.abc import Sequence
from typing import Any

from k15.child import die_with_parent
from k15.rollout.tail import TailWatch

SCHEDULER = "k15.rollout.scheduler.scheduler"
"""The value of vLLM's option --scheduler-cls."""

_WATCH = "k15_watch"


def scheduler(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
    """The scheduler that vLLM would have chosen itself for `vllm_config`, made after the check was replaced."""
    from vllm.logger import init_logger
    from vllm.v1.core.sched import utils

    if multiprocessing.parent_process() is not None:
        die_with_parent()
    log = init_logger("vllm.k15.repetition")
    if hasattr(utils, "check_sequence_repetition"):
        utils.check_sequence_repetition = repeated
        log.info("repetition check: k15.rollout.tail.TailWatch in place of vLLM's own")
    else:
        log.warning("repetition check: vLLM's own, slow for long periods (this version has no check_sequence_repetition)")
    plain = copy.copy(vllm_config.scheduler_config)
    plain.scheduler_cls = None
    return plain.get_scheduler_cls()(vllm_config, *args, **kwargs)


def repeated(token_ids: Sequence[int], params: Any) -> bool:
    """vLLM's `check_sequence_repetition`: whether `token_ids` ends in a repetition by vLLM's RepetitionDetectionParams.

    `token_ids` is the request's list of sampled tokens, one object for its whole life; the watch is kept on it. It goes on
    where one token came since the last call, and starts again from the list where anything else happened. (vLLM empties
    the list of a session that streams its input in; were it asked again only at the old length, that would go unnoticed.
    k15 has no such sessions.)
    """
    low = max(1, params.min_pattern_size)
    if params.min_count < 2 or low > params.max_pattern_size:
        return False  # switched off
    watch: TailWatch | None = getattr(token_ids, _WATCH, None)
    n = len(token_ids)
    if watch is None or watch.count + 1 != n:
        watch = TailWatch(params.max_pattern_size, params.min_count, low)
        setattr(token_ids, _WATCH, watch)
        for i in range(n - 1):
            watch.push(token_ids[i])
    return watch.push(token_ids[n - 1])
