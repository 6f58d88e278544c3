"""One compilation of one Triton kernel, as CI does it for every target without a GPU (tests/kernels/test_compile.py).

Every `kernels/<op>/kernel.py` has `compile_cases() -> list[CompileCase]`, one for each kernel and dtype that runs in
training, with the very constants and launch options that its host wrapper uses on that architecture.
"""

from dataclasses import dataclass, field
from typing import Any

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
"""Name -> arguments of triton.backends.compiler.GPUTarget."""


@dataclass(frozen=True)
class CompileCase:
    """`signature`: argument name -> Triton type ("*bf16", "*fp32", "i32", "constexpr"); `constants`: the constexprs.

    `options`: num_warps, num_stages ... `aligned`: names of arguments whose value or address is divisible by 16
    (what the launcher would specialise on).
    """

    name: str
    target: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, int] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
