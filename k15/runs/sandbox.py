"""The sandbox of a run whose data has code: the user's service, or one that the job starts on its first node.

The job's own is watched as long as the run lives: one that dies is started again at the same address, `sandbox.restarts` times,
and what was asked of it is asked again by the clients, with the same ids. The same goes for the one of a command without agents
(k15.runs.own_sandbox).
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from k15.config.schema import SandboxConfig
from k15.errors import ClusterError, ConfigError, SandboxError
from k15.log import get_logger
from k15.node.client import AgentClient
from k15.reward import code
from k15.sandbox.client import Access, SandboxClient
from k15.types import Prompt

log = get_logger("sandbox")
NAME = "sandbox"
START_TIMEOUT_S = 120.0
WATCH_S = 1.0
_watching: set[asyncio.Task] = set()  # asyncio itself holds tasks weakly


class Keeper(Protocol):
    """Who has the service as its child: an agent (`AgentClient`), or this process."""

    async def start(self, name: str, module: str, args: Sequence[str], env: Mapping[str, str]) -> object: ...

    async def processes(self) -> Mapping[str, Mapping[str, object]]:
        """Of each: alive, returncode, stopped_by_us."""
        ...

    async def log_tail(self, name: str) -> str: ...


async def open_sandbox(cfg: SandboxConfig, prompts: Iterable[Prompt], agents: Sequence[AgentClient], token: str) -> Access | None:
    """Connect the code reward, where a prompt needs it. `token`: the job's, for a service of its own, which ends with the job.

    Returns where code is judged, None where there is none to be judged.
    Raises ConfigError, SandboxError or ClusterError where the service is missing, refuses, or does not start.
    """
    prompts = list(prompts)
    if all(p.domain != "code" for p in prompts):
        return None
    patience = {"patience_s": cfg.patience_s, "queue_patience_s": cfg.queue_patience_s}
    if cfg.url is not None:
        access = Access.of(cfg.url, cfg.token_file, **patience)
    else:
        port, _ = await agents[0].free_port()
        access = Access(f"http://127.0.0.1:{port}", token, **patience)
        words = ["serve", "--port", str(port), "--workers", str(cfg.workers), *service_words(cfg)]
        await start_service(access, agents[0], words)
        watch = asyncio.create_task(watch_service(access, agents[0], words, cfg.restarts))
        _watching.add(watch)
        watch.add_done_callback(_watching.discard)
    await asyncio.to_thread(connect, access, prompts)
    return access


def connect(access: Access, prompts: Sequence[Prompt]) -> None:
    """Judge code at this service from now on. Raises ConfigError where it refuses or lacks a language of the prompts."""
    with SandboxClient(access) as client:
        health = client.health()
        client.check()
    if missing := {code.language_of(p.answer) for p in prompts if p.domain == "code"} - {None, *health["languages"]}:
        raise ConfigError(
            f"The sandbox at {access.url} does not judge {', '.join(sorted(map(str, missing)))}, which prompts ask for; it has "
            f"{', '.join(health['languages'])}. Build the images: k15 sandbox build {' '.join(sorted(map(str, missing)))}."
        )
    code.connect(access)
    log.info("code is judged at %s (%s): %s", access.url, health["backend"], ", ".join(health["languages"]))


def service_words(cfg: SandboxConfig) -> list[str]:
    """Options of `k15 sandbox serve` for a job's own service."""
    images = [word for name, folder in cfg.images.items() for word in ("--image", f"{name}={folder}")]
    return ["--backend", cfg.backend, "--queue-size", str(cfg.queue_size), "--grace-s", "1", *images]


async def start_service(access: Access, keeper: Keeper, words: Sequence[str]) -> None:
    """A service at this machine's loopback address. Raises ClusterError where it does not come up."""
    await keeper.start(NAME, "k15.sandbox.cli", words, {"K15_SANDBOX_TOKEN": access.token})
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    with SandboxClient(access) as client:
        while True:
            try:
                await asyncio.to_thread(client.health)
                return
            except SandboxError:
                alive = (await keeper.processes())[NAME]["alive"]
                if not alive or asyncio.get_running_loop().time() > deadline:
                    raise ClusterError(f"the sandbox did not start:\n{await keeper.log_tail(NAME)}") from None
            await asyncio.sleep(0.5)


async def watch_service(access: Access, keeper: Keeper, words: Sequence[str], restarts: int) -> None:
    """Start it again when it dies, at most `restarts` times; ends with the service's or the keeper's own stop."""
    for left in range(restarts, -1, -1):
        try:
            while (state := (await keeper.processes())[NAME])["alive"]:
                await asyncio.sleep(WATCH_S)
            if state["stopped_by_us"]:
                return
            log.error("the sandbox died (status %s):\n%s", state["returncode"], await keeper.log_tail(NAME))
            if left:
                await start_service(access, keeper, words)
                log.warning("the sandbox is up again; %d more restarts are allowed", left - 1)
        except ClusterError as error:
            log.warning("the sandbox is watched no more: %s", error)
            return
    log.error("the sandbox is not started again (sandbox.restarts=%d); the run ends when its patience does", restarts)
