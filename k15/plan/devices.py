"""Devices and their ceilings, from the vendors' data sheets.

`memory_gb` in 1e9 bytes, `tflops` dense bf16, `memory_gb_s` of the device's memory, `link_gb_s` between devices of a node and
`network_gb_s` of a node's network, both in one direction. Measured ceilings replace them (`plan.tflops`, `plan.memory_gb_s`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One accelerator. `source`: the data sheet."""

    memory_gb: float
    tflops: float
    memory_gb_s: float
    link_gb_s: float
    network_gb_s: float
    source: str
    mfu: float = 0.6  # share of `tflops` that matrix products reach (published runs, docs/plan.md)


DEVICES: dict[str, Device] = {
    "cpu": Device(8, 0.073, 1.9, 2, 1, "one core, fp32, as fitted in benchmarks/results/plan-*.json; give plan.* of yours", 1.0),
    "a100-40": Device(40, 312, 1555, 300, 100, "NVIDIA A100 data sheet (SXM4 40 GB)"),
    "a100": Device(80, 312, 2039, 300, 100, "NVIDIA A100 data sheet (SXM4 80 GB)"),
    "h100": Device(80, 989, 3350, 450, 200, "NVIDIA H100 data sheet (SXM5)"),
    "h800": Device(80, 989, 3350, 200, 200, "NVIDIA H800: H100 with NVLink at 400 GB/s in both directions"),
    "h200": Device(141, 989, 4800, 450, 200, "NVIDIA H200 data sheet (SXM)"),
    "b200": Device(180, 2250, 8000, 900, 400, "NVIDIA DGX B200 data sheet (180 GB a GPU, dense bf16)"),
    "mi300x": Device(192, 1307, 5300, 448, 200, "AMD Instinct MI300X data sheet"),
}
