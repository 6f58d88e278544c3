"""The sandbox of a run whose data has code: the user's service, or one that the job starts on its first node."""

import asyncio
from collections.abc import Iterable, Sequence

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


async def open_sandbox(cfg: SandboxConfig, prompts: Iterable[Prompt], agents: Sequence[AgentClient], token: str) -> None:
    """Connect the code reward, where a prompt needs it. `token`: the job's, for a service of its own, which ends with the job.

    Raises ConfigError, SandboxError or ClusterError where the service is missing, refuses, or does not start.
    """
    prompts = list(prompts)
    if all(p.domain != "code" for p in prompts):
        return
    if cfg.url is not None:
        access = Access.of(cfg.url, cfg.token_file, patience_s=cfg.patience_s)
    else:
        access = await _start(cfg, agents[0], token)
    with SandboxClient(access) as client:
        health = await asyncio.to_thread(client.health)
        await asyncio.to_thread(client.check)
    if missing := {code.language_of(p.answer) for p in prompts if p.domain == "code"} - {None, *health["languages"]}:
        raise ConfigError(
            f"The sandbox at {access.url} does not judge {', '.join(sorted(map(str, missing)))}, which prompts ask for; it has "
            f"{', '.join(health['languages'])}. Build the images: k15 sandbox build {' '.join(sorted(map(str, missing)))}."
        )
    code.connect(access)
    log.info("code is judged at %s (%s): %s", access.url, health["backend"], ", ".join(health["languages"]))


async def _start(cfg: SandboxConfig, agent: AgentClient, token: str) -> Access:
    """A service on the controller's own node, at its loopback address."""
    port, _ = await agent.free_port()
    images = [word for name, folder in cfg.images.items() for word in ("--image", f"{name}={folder}")]
    words = ["serve", "--port", str(port), "--backend", cfg.backend, "--workers", str(cfg.workers),
             "--queue-size", str(cfg.queue_size), "--grace-s", "1", *images]  # fmt: skip
    await agent.start(NAME, "k15.sandbox.cli", words, {"K15_SANDBOX_TOKEN": token})
    access = Access(f"http://127.0.0.1:{port}", token, patience_s=cfg.patience_s)
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    with SandboxClient(access) as client:
        while True:
            try:
                await asyncio.to_thread(client.health)
                return access
            except SandboxError:
                alive = (await agent.processes())[NAME]["alive"]
                if not alive or asyncio.get_running_loop().time() > deadline:
                    tail = await agent.log_tail(NAME)
                    raise ClusterError(f"the sandbox on node {agent.node_rank} did not start:\n{tail}") from None
            await asyncio.sleep(0.5)
