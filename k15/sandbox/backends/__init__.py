"""Isolation mechanisms behind `k15.sandbox.job.Backend`."""

from pathlib import Path

from k15.errors import unknown_name
from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.images.store import Images
from k15.sandbox.job import Backend

BACKENDS = ("bubblewrap",)


def open_backend(name: str = "auto", *, images: dict[str, str | Path] | None = None) -> Backend:
    """A backend by name, or with "auto" the strongest that works here. `images`: the user's own root filesystems by name.

    Raises ConfigError for an unknown name, SandboxError where it cannot run here.
    """
    if name not in ("auto", *BACKENDS):
        raise unknown_name("sandbox.backend", name, ("auto", *BACKENDS))
    return Bubblewrap(Images(images))
