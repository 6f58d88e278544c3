"""A user's own model and data, without Slurm: a bf16 mixture of experts over two tensor-parallel ranks, JSONL prompts."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from k15.config.hf import exported_iteration
from k15.config.schema import TinyModelConfig
from k15.data.tiny import write_tiny_model
from k15.log import read_metrics, read_rollouts

pytestmark = [pytest.mark.vllm, pytest.mark.megatron, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Qwen3-MoE folder with the character tokenizer."""
    folder = write_tiny_model(tmp_path_factory.mktemp("moe"), TinyModelConfig(), 192)
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=vocab, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True,
        max_position_embeddings=192, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def test_own_model_and_data_with_experts_under_tensor_parallelism(model, tmp_path):
    data = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(8) for b in range(8)]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = [
        "cluster=local", f"run_dir={tmp_path / 'run'}", "model=hf", f"model.path={model}", "model.chat=false",
        "model.max_context_tokens=192", "rollout.max_response_tokens=48", "rollout.budget_tokens=24", "data=jsonl",
        f"data.path={data}", "data.eval_fraction=0.2", "parallel.ranks_per_node=2", "parallel.tensor=2",
        "parallel.sequence_parallel=true", "algo.iterations=2", "algo.prompts_per_iteration=4", "algo.samples_per_prompt=4",
        "algo.minibatches=2", "eval.size=4",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-m", "k15", "rl", *words], capture_output=True, text=True, cwd=tmp_path, timeout=800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["iteration"] for r in metrics] == [0, 1, 2]
    assert max(r["canary_mean_abs"] for r in metrics) < 0.05  # bf16 against bf16
    records = [r for f in sorted((tmp_path / "run" / "rollouts").iterdir()) for r in read_rollouts(f)]
    assert {r["prompt"] for r in records} <= {r["prompt"] for r in rows}
    assert exported_iteration(tmp_path / "run" / "hf") == 2
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "hf")
    assert exported.dtype == torch.bfloat16 and sum(p.numel() for p in exported.parameters()) > 10_000
