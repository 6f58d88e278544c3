"""Run a function on real Megatron ranks (one process each, gloo) and bring back what every rank returns."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.multiprocessing as mp

from k15.config.schema import AlgoConfig, ParallelConfig
from k15.node.network import free_port
from k15.types import Sample

VOCAB = 51  # odd, so that tensor parallelism has to pad it


def hf_config(family: str, **changes: Any) -> dict[str, Any]:
    """A tiny config.json: 4 layers, 4 heads, 2 key-value heads, 4 experts (DeepSeek's: 8 in 2 groups, and a dense layer)."""
    config = {
        "model_type": family,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16 if family.startswith("qwen3") else 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "max_position_embeddings": 128,
    }
    if family == "qwen3_moe":
        config |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
        config |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    if family == "mixtral":
        config |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    if family == "deepseek_v3":
        del config["head_dim"]
        config |= {"num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4}
        config |= {"v_head_dim": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
        config |= {"moe_intermediate_size": 12, "n_shared_experts": 2, "first_k_dense_replace": 1, "norm_topk_prob": True}
        config |= {"routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    return config | changes


def make_samples(groups: int = 5, k: int = 3, seed: int = 0, longest: int = 24) -> list[Sample]:
    """Samples of many lengths, with rewards, baselines and loss masks that have holes."""
    random = Random(seed)
    samples = []
    for group in range(groups):
        for _ in range(k):
            prompt, response = random.randint(1, 6), random.randint(1, longest)
            tokens = tuple(random.randrange(VOCAB) for _ in range(prompt + response))
            mask = tuple(int(random.random() < 0.8) for _ in range(response))
            reward, baseline = float(random.random() < 0.5), random.random()
            samples.append(Sample(tokens, prompt, mask, reward=reward, baseline=baseline, group=group))
    return samples


def on_ranks(world: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """[function(*args) of rank 0, of rank 1, ...]; it runs with torch.distributed up. Fails if any rank does."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_rank, (world, free_port("127.0.0.1"), function, str(folder), args), nprocs=world)
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, port: int, function: Callable[..., Any], folder: str, args: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from k15.train.device import init_distributed

    init_distributed(torch.device("cpu"), rank, world, f"127.0.0.1:{port}", timeout_s=300)
    torch.save(function(*args), Path(folder) / f"result_{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def make_trainer(config: Mapping[str, Any], parallel: dict[str, Any] | None = None, **algo: Any):
    """A float32 CPU trainer with random weights of seed 1 (the same in every layout) and temperature 0.8."""
    from k15.train.preference import PreferenceTrainer

    trainer = PreferenceTrainer(
        config,
        parallel=ParallelConfig(**(parallel or {})),
        algo=AlgoConfig(**({"micro_batch_tokens": 64} | algo)),
        dtype="float32",
        device=torch.device("cpu"),
        seed=0,
        temperature=0.8,
    )
    trainer.init_random(1)
    return trainer


def hf_slices(trainer, pick: Callable[[torch.Tensor], torch.Tensor]):
    """(name, shape, starts, tensor) of `pick(parameter)` for what this rank exports, under Hugging Face names."""
    from k15.train import names
    from k15.weights.layout import to_hf

    return [
        (s.name, s.shape, s.starts, s.tensor.clone())
        for name, parameter in names.named_parameters(trainer.model)
        if names.owns(name)
        for s in to_hf(trainer.hf_config, name, pick(parameter).detach(), *names.shard_of(name))
    ]


def assemble(parts: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Join the slices of all ranks; asserts that every element came from exactly one rank."""
    full: dict[str, torch.Tensor] = {}
    seen: dict[str, torch.Tensor] = {}
    for name, shape, starts, tensor in (s for rank in parts for s in rank):
        whole = full.setdefault(name, torch.zeros(shape))
        count = seen.setdefault(name, torch.zeros(shape))
        box = tuple(slice(a, a + n) for a, n in zip(starts, tensor.shape, strict=True))
        whole[box] = tensor
        count[box] += 1
    assert all((c == 1).all() for c in seen.values()), [n for n, c in seen.items() if not (c == 1).all()]
    return full
