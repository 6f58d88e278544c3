"""Isolation mechanisms behind `k15.sandbox.job.Backend`, and the choice between them."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from k15.errors import SandboxError, unknown_name
from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.backends.crun import Crun
from k15.sandbox.backends.probe import DEFAULT, GUARANTEES, Report, choose, examine, table
from k15.sandbox.backends.warm import Warm
from k15.sandbox.images.store import Images
from k15.sandbox.job import Backend

__all__ = ["BACKENDS", "DEFAULT", "GUARANTEES", "Report", "open_backend", "probe", "table"]

log = logging.getLogger(__name__)
BACKENDS = ("crun", "bubblewrap")  # in the order in which "auto" tries them
_CLASSES: Mapping[str, Callable[[Images], Backend]] = {"crun": Crun, "bubblewrap": Bubblewrap}


def open_backend(
    name: str = "auto",
    *,
    images: Mapping[str, str | Path] | None = None,
    require: Iterable[str] = DEFAULT,
    warm: bool | None = None,
) -> Backend:
    """A backend by name, or with "auto" the first that works here, after trying to break it (about a second).

    `images`: the user's own root filesystems by name. `require`: names of `GUARANTEES` without which it does not start.
    `warm`: put a warm interpreter before it for short Python jobs; None does so where the interpreter gives, when tried in
    the same way, all that is required (it never gives "memory", a limit held by the kernel).
    Raises ConfigError for an unknown name, SandboxError (what is missing, and the remedy) where it cannot be had here.
    """
    if name not in ("auto", *BACKENDS):
        raise unknown_name("sandbox.backend", name, ("auto", *BACKENDS))
    store = Images(dict(images or {}))
    names = (name,) if name != "auto" else BACKENDS if os.geteuid() == 0 else ("bubblewrap",)
    backend, _ = choose({n: partial(_CLASSES[n], store) for n in names}, require)
    return backend if warm is False else _warmed(backend, store, frozenset(require), must=warm is True)


def _warmed(behind: Backend, store: Images, wanted: frozenset[str], must: bool) -> Backend:
    """A warm interpreter before `behind`, or `behind` itself where the interpreter lacks something and is not a must."""
    if must or "memory" not in wanted:
        front = Warm(behind, store)
        report = examine(front)
        if wanted <= report.guarantees:
            return front
        front.stop()
        if must:
            behind.close()
            lacks = "; ".join(f"{g}: {report.problems[g]}" for g in sorted(wanted - report.guarantees))
            raise SandboxError(f"the warm interpreter does not give what is required here ({lacks}); set warm=False")
        log.warning("no warm interpreter for short Python jobs here: %s", report.problems)
    return behind


def probe() -> list[Report]:
    """What every backend guarantees here, also those that do not work, for `k15 doctor`."""
    reports = []
    for name, make in {**_CLASSES, "warm": lambda images: Warm(images=images)}.items():
        try:
            backend = make(Images())
        except SandboxError as e:
            reports.append(Report(name, frozenset(), dict.fromkeys(GUARANTEES, str(e))))
            continue
        try:
            reports.append(examine(backend))
        finally:
            backend.close()
    return reports
