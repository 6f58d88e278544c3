"""Published training runs and what the step model says of them: the ground of the default `plan.mfu` on GPUs (docs/plan.md)."""

from dataclasses import dataclass, field, replace
from typing import Any

from k15.config.schema import ParallelConfig
from k15.plan.devices import DEVICES
from k15.plan.job import TrainJob
from k15.plan.step import machine, train_seconds
from k15.train.shape import read_shape

FP8_TFLOPS = 1979.0  # NVIDIA H100 data sheet, dense


@dataclass(frozen=True)
class Run:
    """`sequences` of `length` tokens are a global batch on `gpus`; `rate`: tokens a second and GPU, published or derived from
    what is (the comment beside it says how). All tokens count in the loss, as in pre-training."""

    name: str
    source: str
    device: str
    model: dict[str, Any]
    gpus: int
    sequences: int
    length: int
    rate: float
    parallel: dict[str, Any] = field(default_factory=dict)
    tflops: float | None = None
    factor: float = 2.0  # within which it is reproduced


def decoder(hidden: int, layers: int, heads: int, vocab: int, intermediate: int, kv_heads: int | None = None) -> dict[str, Any]:
    """A Llama-shaped config.json."""
    return {
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads if kv_heads is None else kv_heads, "vocab_size": vocab, "intermediate_size": intermediate,
    }  # fmt: skip


def gpt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    """GPT-3's shape: its plain feed-forward network of 4 H has the parameters of a gated one of 8/3 H."""
    return decoder(hidden, layers, heads, 51200, round(hidden * 8 / 3 / 64) * 64)


def _counted(tflops: float, hidden: int, layers: int, length: int = 2048, vocab: int = 51200) -> float:
    """Tokens/s from TFLOP/s as arXiv 2104.04473 counts them (its equation 3, recomputation included)."""
    return tflops * 1e12 / (96 * layers * hidden**2 * (1 + length / (6 * hidden) + vocab / (16 * layers * hidden)))


_LLAMA3_8B = decoder(4096, 32, 32, 128256, 14336, 8)
_LLAMA3_70B = decoder(8192, 80, 64, 128256, 28672, 8)
_LLAMA3_405B = decoder(16384, 126, 128, 128256, 53248, 8)
_LLAMA2_70B = decoder(8192, 80, 64, 32000, 28672, 8)
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "vocab_size": 129280, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}  # fmt: skip
_LLAMA3, _MEGATRON = "Llama 3, arXiv 2407.21783, table 4", "Megatron-LM, arXiv 2104.04473, table 1"
_SELECTIVE = "Korthikanti et al., arXiv 2205.05198, table 5"
_NEMO = "NVIDIA/NeMo, docs/source/performance/performance_summary.md of 2024-09-09 (container 24.07), FP8"
_405B_TOKEN = 6 * 405e9 + 6 * 126 * 16384 * 8192  # operations a token: the report gives 430 and 400 TFLOP/s a GPU
_8 = {"tensor": 8, "sequence_parallel": True}

RUNS = (
    Run("Llama 3 405B, 8,192 GPUs", _LLAMA3, "h100", _LLAMA3_405B, 8192, 2048, 8192,
        430e12 / _405B_TOKEN, _8 | {"pipeline": 16}),
    Run("Llama 3 405B, 16,384 GPUs", _LLAMA3, "h100", _LLAMA3_405B, 16384, 2048, 8192,
        400e12 / _405B_TOKEN, _8 | {"pipeline": 16}),
    Run("DeepSeek-V3, 2,048 GPUs", "arXiv 2412.19437: 180K H800 hours for 1T tokens, FP8", "h800", DEEPSEEK_V3, 2048, 15360, 4096,
        1e12 / (180e3 * 3600), {"pipeline": 16, "expert": 64}, FP8_TFLOPS, factor=3.0),
    Run("GPT 145.6B", _MEGATRON, "a100", gpt(12288, 80, 96), 1536, 2304, 2048, _counted(148, 12288, 80),
        _8 | {"sequence_parallel": False, "pipeline": 8, "recompute": True}),
    Run("GPT 1008B", _MEGATRON, "a100", gpt(25600, 128, 160), 3072, 3072, 2048, _counted(163, 25600, 128),
        _8 | {"sequence_parallel": False, "pipeline": 64, "recompute": True}),
    Run("GPT 22B", _SELECTIVE, "a100", gpt(6144, 48, 64), 8, 4, 2048, 4 * 2048 / 1.10 / 8, _8),
    Run("GPT 175B", _SELECTIVE, "a100", gpt(12288, 96, 96), 64, 64, 2048, 64 * 2048 / 13.75 / 64, _8 | {"pipeline": 8}),
    Run("GPT 530B", _SELECTIVE, "a100", gpt(20480, 105, 128), 280, 280, 2048, 280 * 2048 / 37.83 / 280, _8 | {"pipeline": 35}),
    Run("GPT 1T", _SELECTIVE, "a100", gpt(25600, 128, 160), 512, 512, 2048, 512 * 2048 / 71.49 / 512, _8 | {"pipeline": 64}),
    Run("Llama 3 8B", _NEMO, "h100", _LLAMA3_8B, 8, 128, 8192, 12273, {"context": 2}, FP8_TFLOPS),
    Run("Llama 2 70B", _NEMO, "h100", _LLAMA2_70B, 64, 128, 4096, 1728, {"tensor": 4, "pipeline": 4, "sequence_parallel": True},
        FP8_TFLOPS),
    Run("Llama 3 70B", _NEMO, "h100", _LLAMA3_70B, 64, 128, 8192, 1524,
        {"tensor": 4, "pipeline": 4, "context": 2, "sequence_parallel": True}, FP8_TFLOPS),
)  # fmt: skip


def predicted(run: Run) -> float:
    """Tokens a second and GPU by the step model with the device's default mfu; a sequence is a micro-batch."""
    sheet = DEVICES[run.device]
    device = sheet if run.tflops is None else replace(sheet, tflops=run.tflops)
    per_node = min(8, run.gpus)
    job = TrainJob(
        read_shape(run.model), ParallelConfig(ranks_per_node=per_node, **run.parallel), run.gpus, per_node, 2, run.length,
        run.sequences, run.length, run.length - 1, reset=False,
    )  # fmt: skip
    seconds = sum(train_seconds(job, machine(device, device.mfu, per_node)).values())
    return run.sequences * run.length / seconds / run.gpus
