"""`k15 sandbox {serve,build,probe}`: run the code-execution service, make its root filesystems, see what works here."""

import argparse
import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from k15.errors import ConfigError, K15Error
from k15.log import get_logger
from k15.sandbox.images.store import Images

log = get_logger("sandbox")
_STATE = "k15-sandbox-state-"
_DESCRIPTORS = 1 << 16
USAGE = """usage: k15 sandbox ACTION [options]

  serve   the HTTP service: /judge, /run, /health, /metrics     k15 sandbox serve --token-file FILE [--port 8021]
  build   root filesystems of the languages                     k15 sandbox build base cpp java
  probe   what isolation works on this machine                  k15 sandbox probe
"""


def main(argv: Sequence[str]) -> int:
    """Exit code. Raises ConfigError and SandboxError."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    actions = {"serve": serve, "build": build, "probe": probe}
    if words[0] not in actions:
        raise ConfigError(f"k15 sandbox knows serve, build and probe, but not {words[0]!r}.")
    return actions[words[0]](words[1:])


def serve(words: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; prints the URL once it listens."""
    from k15.sandbox.backends import DEFAULT, open_backend
    from k15.sandbox.service import Service, ServiceSettings

    args = _serve_parser().parse_args(words)
    _allow_descriptors()
    own, token = _own_images(args.image), _token(args.token_file)
    require = DEFAULT if args.require is None else args.require.split(",")
    with contextlib.ExitStack() as stack:
        state = args.state_dir if args.state_dir is not None else stack.enter_context(_temporary())
        settings = ServiceSettings(
            token=token, state_dir=Path(state), host=args.host, port=args.port, workers=args.workers, queue_size=args.queue_size,
            max_request_bytes=args.max_request_mb << 20, keep_s=args.keep_s, grace_s=args.grace_s, sessions=args.sessions,
            session_idle_s=args.session_idle_s,
        )  # fmt: skip
        warm = {"auto": None, "on": True, "off": False}[args.warm]
        backend = open_backend(args.backend, images=own, require=require, warm=warm)
        stack.enter_context(contextlib.closing(backend))
        asyncio.run(_until_signal(Service(settings, backend, Images(own)), args.url_file))
    return 0


def _allow_descriptors() -> None:
    """Raise the soft limit of descriptors. The kernel holds those on their way over sockets to it, for a whole uid: jobs, which
    have the uid of a service without root and 512 each, could otherwise keep the service from handing over a job's.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    """A state directory for as long as this lasts. Those of services that were killed are removed: nobody holds their lock."""
    for old in Path(tempfile.gettempdir()).glob(f"{_STATE}*/lock"):
        with contextlib.suppress(OSError), old.open("rb") as lock:  # OSError: in use, another user's, or gone meanwhile
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_STATE) as folder, Path(folder, "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


async def _until_signal(service, url_file: str | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url = await service.start()
    print(f"sandbox at {url}", flush=True)
    if url_file is not None:
        _write(Path(url_file), url)
    try:
        await stop.wait()
    finally:
        log.info("the sandbox stops")
        await service.close()


def build(words: Sequence[str]) -> int:
    """Build images, C++'s precompiled header in those for it, and the DMOJ judge in its own."""
    from k15.sandbox.backends import open_backend
    from k15.sandbox.backends.bubblewrap import Bubblewrap
    from k15.sandbox.dmoj import install
    from k15.sandbox.images.__main__ import main as images
    from k15.sandbox.precompiled import precompile

    if {"-h", "--help"} & set(words):
        return images(["build", "--help"])
    code = images(["build", *words])
    built = [w for w in words if w in ("cpp", "all")] if code == 0 else []
    if built:
        with contextlib.closing(open_backend("auto")) as backend:
            for name in built:
                size = precompile(backend, Images().rootfs(name), name)
                print(f"{name}: " + (f"precompiled header of {size >> 20} MB" if size else "precompiled header is there already"))
    if code == 0 and "dmoj" in words:
        with contextlib.closing(Bubblewrap()) as backend:
            fresh = install(backend, Images().rootfs("dmoj"))
        print("dmoj: " + ("the judge is compiled and installed" if fresh else "the judge is there already"))
    return code


def probe(words: Sequence[str]) -> int:
    """Print what `k15.sandbox.backends.probe` found."""
    from k15.sandbox import backends

    if words:
        raise ConfigError("k15 sandbox probe takes no options.")
    print(backends.table(backends.probe()))
    return 0


def _serve_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="k15 sandbox serve", allow_abbrev=False)
    add = parser.add_argument
    add("--token-file", help="holds the bearer token; else the environment's K15_SANDBOX_TOKEN")
    add("--host", default="127.0.0.1", help="address to listen on (never all of them)")
    add("--port", type=int, default=0, help="0: a free one")
    add("--url-file", help="written once the service listens")
    add("--backend", default="auto")
    add(
        "--warm",
        choices=("auto", "off"),
        default="auto",
        help="Python jobs in forks of a warm interpreter, unless --require has memory",
    )
    add("--require", default=None, help="guarantees, by comma, without which it does not start (see probe); default: all but one")
    add("--workers", type=int, default=2 * len(os.sched_getaffinity(0)), help="jobs at once: two a core, since a start waits")
    add("--queue-size", type=int, default=256, help="requests that may wait or run; more get 429")
    add("--max-request-mb", type=int, default=16)
    add("--state-dir", help="journal of accepted requests, on a local disk; the same one again continues it")
    add("--keep-s", type=float, default=3600.0, help="how long results are kept")
    add("--grace-s", type=float, default=20.0, help="for running jobs when the service is stopped")
    add("--sessions", type=int, default=8, help="Jupyter sessions at once")
    add("--session-idle-s", type=float, default=600.0)
    add("--image", action="append", default=[], metavar="NAME=DIR", help="a root filesystem of your own")
    return parser


def _token(path: str | None) -> str:
    if path is None:
        token = os.environ.pop("K15_SANDBOX_TOKEN", "")
        if not token:
            raise ConfigError("The sandbox does not start without a token: openssl rand -hex 24 > FILE; --token-file FILE")
        return token
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error.strerror}.") from error


def _own_images(words: Sequence[str]) -> dict[str, str | Path]:
    own: dict[str, str | Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and Path(folder).is_dir()):
            raise ConfigError(f"--image {word}: give NAME=DIR, DIR a root filesystem.")
        own[name] = folder
    return own


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except K15Error as error:
        sys.exit(f"k15 sandbox: {error}")
