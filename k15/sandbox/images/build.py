"""Builds a root filesystem from Debian packages without any privilege: apt resolves and verifies, dpkg-deb unpacks.

No maintainer script runs (so no chroot, no user namespace, no root): what they would have done and matters here are the
users and links below. The host's own apt sources, keys and proxies are used, in a private state directory.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.images.recipes import ALIASES, RECIPES, Recipe
from k15.sandbox.images.store import cache_root, image_path

_MERGED = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_PASSWD = "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/tmp/work:/usr/sbin/nologin\n"
_GROUP = "root:x:0:\nnogroup:x:65534:\n"
_LISTS_LAST_S = 3600.0  # one image after another is built from the same lists, and shares what they have in common
_HOSTS = "127.0.0.1 localhost\n"
_PREFER = "Package: *\nPin: release o=Debian\nPin-Priority: 990\n\nPackage: *\nPin: release o=Ubuntu\nPin-Priority: 990\n"


def build(names: list[str], say: Callable[[str], None] = print, again: bool = False) -> list[Path]:
    """Build each named image that is not there yet; returns their directories. Prints size and time through `say`.

    Raises SandboxError for an unknown name, a host without apt, or a failed download.
    """
    wanted = list(dict.fromkeys(ALIASES.get(name, name) for name in names))
    unknown = [name for name in wanted if name not in RECIPES]
    if unknown:
        raise SandboxError(f"there is no recipe for {unknown}; known: {', '.join([*RECIPES, *ALIASES])}")
    paths = []
    apt: _Apt | None = None
    for name in wanted:
        path = image_path(name)
        paths.append(path)
        if path.is_dir() and not again:
            say(f"{name}: there already ({_size_mb(path):.0f} MB)")
            continue
        started = time.monotonic()
        apt = apt if apt is not None else _Apt(cache_root() / "apt")
        with tempfile.TemporaryDirectory(dir=_made(path.parent), prefix=f".{name}-") as folder:
            root = Path(folder) / "root"
            _fill(root, apt.packages(RECIPES[name].packages), RECIPES[name])
            if path.is_dir():
                path.rename(Path(folder) / "old")
            root.rename(path)
        say(f"{name}: built in {time.monotonic() - started:.0f} s, {_size_mb(path):.0f} MB ({RECIPES[name].about})")
    return paths


class _Apt:
    """apt with a state directory of its own: the host's sources and keys, nothing installed."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise SandboxError(
                "building an image needs apt-get and dpkg-deb (Debian, Ubuntu). Elsewhere: build it on such a machine and copy "
                "its directory, or register any root filesystem of your own (sandbox.images)"
            )
        for part in ("lists/partial", "archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "preferences").write_text(_PREFER)
        self.archives = folder / "archives"
        self._options = [
            f"-oDir::State={folder}", f"-oDir::State::status={folder / 'status'}", f"-oDir::Cache={folder}",
            f"-oDir::Cache::archives={self.archives}", f"-oDir::State::lists={folder / 'lists'}",
            f"-oDir::Etc::preferences={folder / 'preferences'}", "-oDir::Etc::preferencesparts=/nonexistent",
            "-oAPT::Sandbox::User=", "-oDebug::NoLocking=1", "-oAPT::Install-Recommends=0", "-oDir::Log=/nonexistent",
            "-oAPT::Keep-Downloaded-Packages=1", "-oAcquire::Languages=none", "-oDPkg::Post-Invoke=", "-oAcquire::Retries=3",
        ]  # fmt: skip
        self._updated = folder / "updated"
        if not self._updated.exists() or time.time() - self._updated.stat().st_mtime > _LISTS_LAST_S:
            self._update()

    def packages(self, names: tuple[str, ...]) -> list[Path]:
        """Downloads the packages and all that they depend on; returns the files, in no particular order."""
        try:
            return self._download(names)
        except SandboxError:  # the archive may have moved on since the lists were read
            self._update()
            return self._download(names)

    def _download(self, names: tuple[str, ...]) -> list[Path]:
        """What another image has brought is there already: which files are this one's is asked for, not looked up."""
        with tempfile.TemporaryDirectory() as empty:
            (Path(empty) / "partial").mkdir()
            said = self._run(f"-oDir::Cache::archives={empty}", "install", "--print-uris", "-y", *names)
        self._run("install", "--download-only", "-y", *names)
        return [self.archives / name for name in re.findall(r"^'[^']*' (\S+\.deb) \d+", said, re.MULTILINE)]

    def _update(self) -> None:
        self._run("update")
        self._run("autoclean")  # removes only what the lists no longer name: an update without a network costs nothing
        self._updated.touch()

    def _run(self, *words: str) -> str:
        done = subprocess.run(["apt-get", "-qq", *self._options, *words], capture_output=True, text=True, env=_environment())
        if done.returncode:
            raise SandboxError(f"apt-get {' '.join(words[-3:])} failed:\n{done.stderr.strip()[-2000:]}")
        return done.stdout


def _fill(root: Path, packages: list[Path], recipe: Recipe) -> None:
    root.mkdir(mode=0o755)
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        unpack = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        into = subprocess.run(
            ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions", "-C", root, *_LEFT_OUT],
            stdin=unpack.stdout, capture_output=True, text=True, umask=0o022,
        )  # fmt: skip
        if unpack.wait() or into.returncode:
            raise SandboxError(f"unpacking {package.name} failed: {into.stderr.strip()[-1000:]}")
    for name in ("proc", "dev", "tmp", "run", "etc", "root", "sys"):
        (root / name).mkdir(exist_ok=True)
    for name, text in (("passwd", _PASSWD), ("group", _GROUP), ("hosts", _HOSTS), ("hostname", "sandbox\n")):
        (root / "etc" / name).write_text(text)
    for link, target in recipe.links.items():
        path = root / link
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    for folder, _, files in os.walk(root):  # nothing in an image may lend privilege, whoever owns it
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o755 | 0o444)


_LEFT_OUT = (
    "--exclude=./usr/share/doc",
    "--exclude=./usr/share/man",
    "--exclude=./usr/share/locale",
    "--exclude=./usr/share/info",
)


def _environment() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _size_mb(path: Path) -> float:
    done = subprocess.run(["du", "-sm", path], capture_output=True, text=True)
    return float(done.stdout.split()[0]) if done.returncode == 0 else float("nan")
