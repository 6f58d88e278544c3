"""vLLM servers on a Hugging Face folder for as long as a command needs them, without agents: on this machine, for one process."""

import asyncio
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    with several_served(
        folder, [log_file], rollout, device=device, dtype=dtype, max_context_tokens=max_context_tokens,
        start_timeout_s=start_timeout_s,
    ) as (urls, token):  # fmt: skip
        yield urls[0], token


@contextmanager
def several_served(
    folder: Path,
    log_files: Sequence[Path],
    rollout: RolloutConfig,
    *,
    device: str,
    dtype: str,
    max_context_tokens: int,
    start_timeout_s: float,
    extra_args: Sequence[str] = (),
) -> Iterator[tuple[list[str], str]]:
    """(urls, the bearer token of all) of a server for each log file, started together. Several on CUDA share the visible
    devices, `rollout.tensor_parallel` each. Raises EngineError with the log's name where one does not start."""
    token, started = secrets.token_hex(16), []
    with ExitStack() as stack:
        # A vLLM that is killed leaves its sockets in TMPDIR.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="k15-engines-", ignore_cleanup_errors=True))
        for index, log_file in enumerate(log_files):
            port = free_port("127.0.0.1")
            argv, env = engine_command(
                rollout, model_dir=folder, host="127.0.0.1", port=port, device=device, dtype=dtype,  # type: ignore[arg-type]
                max_context=max_context_tokens, dummy=False, token=token, extra_args=extra_args,
            )  # fmt: skip
            if device == "cuda" and len(log_files) > 1:
                env = env | {"CUDA_VISIBLE_DEVICES": _devices(index, rollout.tensor_parallel)}
            out = stack.enter_context(log_file.open("wb"))
            process = subprocess.Popen(
                argv, env=os.environ | {"TMPDIR": scratch} | env,
                stdout=out, stderr=out, start_new_session=True, preexec_fn=child.prepare,
            )  # fmt: skip
            stack.callback(child.end, process)
            started.append((f"http://127.0.0.1:{port}", process, log_file))
        for url, process, log_file in started:
            try:
                asyncio.run(wait_ready(url, token, lambda p=process: p.poll() is None, start_timeout_s))
            except EngineError as error:
                raise EngineError(f"{error} ({log_file})") from error
        try:
            yield [url for url, _, _ in started], token
        except EngineError as error:
            raise EngineError(f"{error} ({', '.join(str(log_file) for log_file in log_files)})") from error


def _devices(index: int, size: int) -> str:
    """The CUDA devices of server `index`, out of those that this process may see."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range((index + 1) * size)] if seen is None else seen.split(",")
    mine = names[index * size : (index + 1) * size]
    if len(mine) < size:
        raise EngineError(f"server {index} needs {size} devices, but only {len(names)} are visible; lower engine.count.")
    return ",".join(mine)
