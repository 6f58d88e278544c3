"""C++'s precompiled header, made inside the sandbox by the image's own compiler and put beside the header it stands for.

g++ takes any file of the folder `stdc++.h.gch/` that was made by the same compiler with the same flags.
"""

import os
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.job import Backend, Job, Limits
from k15.sandbox.languages import CPP_FLAGS, PCH

_NAME = "k15.gch"
_LIMITS = Limits(wall_s=180.0, cpu_s=120.0, memory_mb=2048, disk_mb=512, output_bytes=1 << 16)


def precompile(backend: Backend, rootfs: Path, image: str) -> int:
    """Makes it in the image `image`, which lies at `rootfs`; returns its size in bytes, 0 where it was there already.

    Raises SandboxError where the image has no such header or the compiler fails.
    """
    headers = sorted(rootfs.glob(f"usr/include/*/c++/*/{PCH}"))
    if not headers:
        raise SandboxError(f"The image {image!r} has no {PCH}; it needs g++.")
    folder = headers[-1].with_name(headers[-1].name + ".gch")
    if (folder / _NAME).exists():
        return 0
    inside = f"/{headers[-1].relative_to(rootfs)}"
    words = f"g++ {CPP_FLAGS} -x c++-header {inside} -o {_NAME}"
    done = backend.run(Job(("sh", "-c", words), image, keep=(_NAME,), env={"PATH": "/usr/bin:/bin"}, limits=_LIMITS))
    content = done.kept.get(_NAME)
    if done.error is not None or done.exit_code != 0 or content is None:
        raise SandboxError(f"precompiling {PCH} in {image!r} failed: {done.error or done.limit or done.stderr.decode()[-500:]}")
    folder.mkdir(exist_ok=True)
    part = folder / f".{_NAME}.{os.getpid()}"
    part.write_bytes(content)
    part.chmod(0o644)
    part.replace(folder / _NAME)
    return len(content)
