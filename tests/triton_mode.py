"""Whether Triton kernels run on a GPU or in the interpreter in this test run; must be imported before triton is.

`tl.sum` and its like are decorated when triton is imported, so TRITON_INTERPRET=1 must be set at that moment. It is set
for the import only: tests that start processes must not hand it to them.
"""

import os
from pathlib import Path

INTERPRET = not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd"))  # torch would take seconds to ask

if INTERPRET:
    _before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    assert not isinstance(tl.sum, JITFunction), "triton was imported before tests/triton_mode.py"
    if _before is None:
        del os.environ["TRITON_INTERPRET"]
