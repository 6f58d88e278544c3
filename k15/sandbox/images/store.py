"""Where root filesystems (and the compiled native parts) are kept: outside the clone, owned by the user, named by recipe."""

import os
import stat
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.images.recipes import RECIPES


def cache_root() -> Path:
    """`$K15_CACHE_DIR/sandbox`; else the user's cache, or /var/cache for root.

    Root's home is closed to others, and a sandbox that root starts drops to an ordinary uid before it opens the image.
    """
    named = os.environ.get("K15_CACHE_DIR")
    if named is not None:
        return Path(named).expanduser().resolve() / "sandbox"
    if os.geteuid() == 0:
        return Path("/var/cache/k15/sandbox")
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base is not None else Path.home() / ".cache") / "k15" / "sandbox"


def image_path(name: str) -> Path:
    """Where the image of a recipe is or would be."""
    return cache_root() / "images" / f"{name}-{RECIPES[name].digest}"


class Images:
    """Root filesystems by name: those built by `k15.sandbox.images` and the user's own.

    `own`: name -> directory of a root filesystem that the user brings (it must have /proc, /dev and /tmp).
    """

    def __init__(self, own: dict[str, str | Path] | None = None) -> None:
        self._own = {name: Path(path).resolve() for name, path in (own or {}).items()}

    def names(self) -> list[str]:
        """The images that can be used now."""
        built = [name for name in RECIPES if image_path(name).is_dir()]
        return sorted({*built, *self._own})

    def rootfs(self, name: str) -> Path:
        """The directory of an image. SandboxError, with the command that builds it, where it is not there."""
        path = self._own.get(name)
        if path is None and name in RECIPES:
            path = image_path(name)
            if not path.is_dir():
                raise SandboxError(f"sandbox image {name!r} is not built; run: python -m k15.sandbox.images build {name}")
        if path is None:
            raise SandboxError(f"there is no sandbox image {name!r}; known: {', '.join(sorted({*RECIPES, *self._own}))}")
        lacking = [d for d in ("proc", "dev", "tmp") if not (path / d).is_dir()]
        if lacking:
            raise SandboxError(f"sandbox image {name!r} lacks the directories {lacking} (it is no root filesystem)")
        return path


def open_to_others(path: Path) -> Path | None:
    """The first directory on the way to `path` that other users cannot enter; None where they can."""
    for step in (*reversed(path.parents), path):
        if not step.stat().st_mode & stat.S_IXOTH:
            return step
    return None
