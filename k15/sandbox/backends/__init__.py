"""Isolation mechanisms behind `k15.sandbox.job.Backend`, and the choice between them."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from k15.errors import SandboxError, unknown_name
from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.backends.crun import Crun
from k15.sandbox.backends.probe import DEFAULT, GUARANTEES, Report, choose, examine, table
from k15.sandbox.images.store import Images
from k15.sandbox.job import Backend

__all__ = ["BACKENDS", "DEFAULT", "GUARANTEES", "Report", "open_backend", "probe", "table"]

BACKENDS = ("crun", "bubblewrap")  # in the order in which "auto" tries them
_CLASSES: Mapping[str, Callable[[Images], Backend]] = {"crun": Crun, "bubblewrap": Bubblewrap}


def open_backend(
    name: str = "auto", *, images: Mapping[str, str | Path] | None = None, require: Iterable[str] = DEFAULT
) -> Backend:
    """A backend by name, or with "auto" the first that works here, after trying to break it (about a second).

    `images`: the user's own root filesystems by name. `require`: names of `GUARANTEES` without which it does not start.
    Raises ConfigError for an unknown name, SandboxError (what is missing, and the remedy) where it cannot be had here.
    """
    if name not in ("auto", *BACKENDS):
        raise unknown_name("sandbox.backend", name, ("auto", *BACKENDS))
    store = Images(dict(images or {}))
    names = (name,) if name != "auto" else BACKENDS if os.geteuid() == 0 else ("bubblewrap",)
    backend, _ = choose({n: partial(_CLASSES[n], store) for n in names}, require)
    return backend


def probe() -> list[Report]:
    """What every backend guarantees here, also those that do not work, for `k15 doctor`."""
    reports = []
    for name in BACKENDS:
        try:
            backend = _CLASSES[name](Images())
        except SandboxError as e:
            reports.append(Report(name, frozenset(), dict.fromkeys(GUARANTEES, str(e))))
            continue
        try:
            reports.append(examine(backend))
        finally:
            backend.close()
    return reports
