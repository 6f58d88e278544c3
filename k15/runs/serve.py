"""A vLLM server on a Hugging Face folder for as long as a command needs one, without agents: on this machine, for one process."""

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k15 import child
from k15.config.schema import RepetitionConfig, RolloutConfig
from k15.errors import EngineError
from k15.node.network import free_port
from k15.rollout.server import engine_command, wait_ready


@contextmanager
def served(
    folder: Path,
    log_file: Path,
    *,
    device: str,
    dtype: str,
    max_context_tokens: int,
    concurrency: int,
    start_timeout_s: float,
    rollout: RolloutConfig | None = None,
) -> Iterator[tuple[str, str]]:
    """(url, bearer token) of a vLLM server on `folder`, which ends with the block. Raises EngineError with its log's name.

    `rollout` has more of its settings (tensor parallel size, memory); `concurrency` sequences run at once.
    """
    if rollout is None:
        rollout = RolloutConfig(max_concurrent=concurrency, repetition=RepetitionConfig(enabled=False))
    port, token = free_port("127.0.0.1"), secrets.token_hex(16)
    argv, env = engine_command(
        rollout, model_dir=folder, host="127.0.0.1", port=port, device=device, dtype=dtype, max_context=max_context_tokens,
        dummy=False, token=token,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with log_file.open("wb") as out:
        process = subprocess.Popen(
            argv, env=os.environ | env, stdout=out, stderr=out, start_new_session=True, preexec_fn=child.prepare
        )  # fmt: skip
    try:
        asyncio.run(wait_ready(url, token, lambda: process.poll() is None, start_timeout_s))
        yield url, token
    except EngineError as error:
        raise EngineError(f"{error} ({log_file})") from error
    finally:
        child.end(process)
