"""The planner against what was measured and published, and its refusals: what is too big, and layouts that do fit."""

import json
import math
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.config.schema import ParallelConfig
from k15.errors import ConfigError, K15Error
from k15.plan import known, memory, model, published
from k15.plan.job import TrainJob
from k15.runs.plan import main, parse, plan, setup_of
from k15.train.shape import ModelShape, check_layout, read_shape

TRILLION = published.DEEPSEEK_V3 | {"hidden_size": 8192, "num_hidden_layers": 64, "n_routed_experts": 320}


@pytest.fixture
def qwen(tmp_path) -> list[str]:
    """Words for a 7 B model on two nodes of eight."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
    }))  # fmt: skip
    return ["model=hf", f"plan.config={config}", "cluster.nodes=2", "parallel.ranks_per_node=8"]


def test_published_sizes_and_rates():
    sizes = {"DeepSeek-V3, 2,048 GPUs": (671e9, 37e9), "Llama 3 405B, 8,192 GPUs": (405e9, 404e9), "GPT 1T": (1008e9, 1007e9)}
    for run in published.RUNS:
        if run.name in sizes:
            every, active = sizes[run.name]
            assert model.total(read_shape(run.model)) == pytest.approx(every, rel=0.01)
            assert model.active(read_shape(run.model)) == pytest.approx(active, rel=0.02)
        assert 1 / run.factor <= published.predicted(run) / run.rate <= run.factor, run.name
        assert run.factor <= known.PUBLISHED_FACTOR or run.name.startswith("DeepSeek")


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.booleans())
def test_stages_and_expert_ranks_hold_the_whole_model_between_them(pipeline, expert, tied):
    shape = replace(read_shape(TRILLION), tied=tied and pipeline == 1)
    parallel = ParallelConfig(pipeline=pipeline, expert=expert)
    held = [model.held(shape, parallel, stage) for stage in range(pipeline)]
    assert sum(h.dense + expert * h.expert for h in held) == model.total(shape)


def test_a_trillion_parameters_on_2048_gpus_are_searched_in_seconds(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TRILLION))
    started = time.perf_counter()
    main(["model=hf", f"plan.config={tmp_path}", "cluster.nodes=256", "parallel.ranks_per_node=8",
          "model.max_context_tokens=16384", "rollout.tensor_parallel=8", "algo.prompts_per_iteration=1024",
          "--search"])  # fmt: skip
    assert time.perf_counter() - started < 10
    out = capsys.readouterr().out
    found = [float(s) for s in re.findall(r"([\d.]+) s of training", out)]
    assert len(found) == 8 and found == sorted(found) and known.MEASURED in out
    best = {k: int(v) for k, v in re.findall(r"parallel\.(\w+)=(\d+)", out.splitlines()[1])}
    shape = read_shape(TRILLION)
    assert model.total(shape) > 1e12
    check_layout(shape, ParallelConfig(sequence_parallel=best["tensor"] > 1, **best), 2048)


def test_what_cannot_fit_is_named_and_the_offered_layout_fits(qwen):
    with pytest.raises(ConfigError, match=r"trainer rank .* GB at its peak, of which gradients are 30.5 GB") as refused:
        plan(parse([*qwen, "plan.memory_gb=40", "rollout.gpu_memory_utilization=0.9"]))
    offered = next(line.split("  ")[1] for line in str(refused.value).splitlines()[1:])
    assert "tensor=" in offered or "pipeline=" in offered
    fits = plan(parse([*qwen, "plan.memory_gb=40", "rollout.gpu_memory_utilization=0.9", *offered.split()]))
    assert any(line.startswith("training: ") for line in fits) and known.MEASURED in fits[-1]
    with pytest.raises(ConfigError, match="an engine's weights are 15.2 GB a device.* raise rollout.tensor_parallel"):
        plan(parse([*qwen, "rollout.gpu_memory_utilization=0.2", *offered.split()]))
    with pytest.raises(ConfigError, match="host memory, but cluster.mem_gb is 64"):
        plan(parse([*qwen, "cluster.mem_gb=64", "rollout.gpu_memory_utilization=0.9", *offered.split()]))
    with pytest.raises(ConfigError, match="No layout of 16 ranks fits. (32|64|128|256) ranks do, for example parallel.tensor="):
        plan(parse([*qwen, "plan.memory_gb=10"]))


def test_layouts_change_memory_as_they_should(qwen):
    def parts(*words: str) -> memory.Parts:
        setup, _ = setup_of(parse([*qwen, *words]))
        return memory.worst_stage(setup.job)[1]

    plain = parts()
    assert parts("parallel.recompute=true").activations < plain.activations / 5
    assert parts("parallel.distributed_optimizer=false").moments == 16 * plain.moments
    tensor = parts("parallel.tensor=4", "parallel.sequence_parallel=true")
    assert math.isclose(tensor.weights, plain.weights / 4, rel_tol=0.01) and tensor.activations < plain.activations / 3
    assert parts("algo.minibatches=2").peak > plain.peak  # moments then live through the second backward pass
    deep = parts("parallel.pipeline=4")
    assert deep.weights < plain.weights / 2 and deep.activations > plain.activations / 2  # four micro-batches in flight


@pytest.mark.parametrize("words, says", [
    (["plan.device=h1000"], "plan.device.*h1000.*h100"),
    (["--serach"], "--serach.*--search"),
    (["plan.mfu=1.5"], "plan.mfu is 1.5.*fraction"),
    (["plan.p99_over_p50=0.5"], "at least 1"),
    (["plan.budgets=[512,0]"], "plan.budgets has 0"),
    (["plan.config=/nowhere"], "no config.json"),
    (["plan.trace=/nowhere", "plan.device=cpu"], "/nowhere"),
    (["plan.prize=3"], "plan.prize.*price_per_gpu_hour"),
    (["parallel.tensor=3", "plan.device=cpu"], "parallel.tensor=3 must divide"),
])  # fmt: skip
def test_wrong_words_are_explained(words, says):
    with pytest.raises(K15Error, match=says):
        main(words)


def test_it_takes_the_very_words_of_a_launch(capsys):
    assert main(["launch", "rl", "algo.iterations=7", "--dry-run", "plan.device=cpu", "plan.iterations=2"]) == 0
    out = capsys.readouterr().out
    assert "7 iterations: " in out and "GPU-hours" in out and "off-policy" not in out
    assert main(["plan.device=cpu", "--simulate", "plan.scale=[1,2]", "plan.iterations=2", "plan.mtbf_node_h=0.01"]) == 0
    out = capsys.readouterr().out
    assert "off-policy" in out and "as many prompts for each GPU" in out


def test_over_how_many_nodes_a_copy_of_the_model_lies() -> None:
    """Neighbouring ranks make a pipeline stage, and split experts have one owner each."""

    def nodes(shape: ModelShape, ranks: int, **parallel: int) -> int:
        return TrainJob(shape, ParallelConfig(ranks_per_node=8, **parallel), ranks, 8, 2, 4096, 64, 100, 50).nodes_of_model

    dense = read_shape(next(run.model for run in published.RUNS if run.name.startswith("Llama 3 405B")))
    sparse = read_shape(TRILLION)
    assert nodes(dense, 32, pipeline=4) == 4 and nodes(dense, 8, pipeline=4) == 1 and nodes(dense, 32, tensor=8) == 1
    assert nodes(sparse, 64, expert=64) == 8 and nodes(sparse, 64, expert=8) == 1 and nodes(dense, 16, pipeline=8) == 2
