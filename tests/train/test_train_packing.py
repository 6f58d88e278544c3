"""The plan of micro-batches (properties), and models and layouts that the trainer refuses. No Megatron, no torch."""

import subprocess
import sys
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.config.schema import ParallelConfig
from k15.errors import ConfigError
from k15.train.packing import Work, balance, plan_micro_batches, split_minibatches
from k15.train.shape import check_layout, read_shape

MOE = {
    "model_type": "qwen3_moe",
    "vocab_size": 51,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}
QWEN7B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
QWEN2 = {k: v for k, v in MOE.items() if "expert" not in k and "moe" not in k} | {"model_type": "qwen2"}


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 300), st.floats(0, 0.1))
def test_a_plan_holds_every_unit_once_within_the_budget(lengths, ranks, budget, square):
    costs = [n + square * n * n for n in lengths]
    plan = plan_micro_batches(lengths, costs, ranks, budget)
    assert sorted(i for rank in plan for micro in rank for i in micro) == list(range(len(lengths)))
    assert len({len(rank) for rank in plan}) == 1
    for micro in (m for rank in plan for m in rank):
        assert len(micro) <= 1 or sum(lengths[i] for i in micro) <= budget
    loads = [sum(costs[i] for micro in rank for i in micro) for rank in plan]
    assert max(loads) - min(loads) <= max(costs) * (1 + 1e-9)  # no rank waits for more than one unit
    for rank in plan:  # best fit never leaves two packs that fit into one
        sizes = sorted(sum(lengths[i] for i in m) for m in rank if m)
        assert len(sizes) < 2 or sizes[0] + sizes[1] > budget


@pytest.mark.parametrize("seed", range(3))
def test_heavy_tails_are_balanced_by_work_within_milliseconds(seed):
    random, work = Random(seed), Work.of(read_shape(QWEN7B))
    lengths = [min(32768, max(16, int(random.lognormvariate(6.5, 1.2)))) for _ in range(8192)]
    times = []
    for _ in range(5):
        start = time.process_time()
        costs = [work(n, n // 2) for n in lengths]
        plan = plan_micro_batches(lengths, costs, 64, 32768)
        times.append(time.process_time() - start)
    assert balance(plan, costs) <= 1.03
    assert min(times) <= 0.05
    by_tokens = plan_micro_batches(lengths, lengths, 64, 32768)
    assert balance(plan, costs) < balance(by_tokens, costs)  # what counts is work, not tokens


def test_work_counts_the_matrix_products_of_a_model():
    """Against a count of the parameters that multiply, for dense layers and for experts."""
    dense = Work.of(read_shape(QWEN2))
    h, q, kv, f = 32, 32, 16, 48
    assert dense.token == 2 * 4 * (h * q + 2 * h * kv + q * h + 3 * h * f)
    assert dense.square == 4 * 2 * q  # 2 products of q operations each, twice, over half the square
    assert dense.response == 2 * h * 51
    moe = Work.of(read_shape(MOE))
    assert moe.token - dense.token == 2 * 4 * (3 * h * (2 * 24 - f) + h * 4)
    assert dense(10, 4) == 10 * dense.token + 100 * dense.square + 4 * dense.response


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.data())
def test_mini_batches_are_whole_groups(groups, data):
    count = data.draw(st.integers(1, len(set(groups))))
    parts = split_minibatches(groups, count)
    assert len(parts) == count and all(parts)
    assert sorted(i for p in parts for i in p) == list(range(len(groups)))
    where = {}
    assert all(where.setdefault(groups[i], n) == n for n, p in enumerate(parts) for i in p)


def test_few_groups_make_few_mini_batches():
    assert split_minibatches([0, 0, 1], 3) == [[0, 1], [2]]
    with pytest.raises(ValueError, match="at least 1"):
        split_minibatches([0, 0, 1], 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_vl"}, "Did you mean 'qwen2'"),
        ({"hidden_act": "gelu"}, "hidden_act of config.json is 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type of config.json, a qwen3_moe model, is 'yarn'"),
    ],
)
def test_models_that_are_not_built_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        read_shape(MOE | change)


@pytest.mark.parametrize(
    ("config", "layout", "world", "message"),
    [
        (QWEN2, {"tensor": 4}, 4, "parallel.tensor x parallel.context is 4 x 1; it must divide the model's 2 key-value heads"),
        (QWEN2, {"pipeline": 3}, 3, "must divide the model's 4 layers"),
        (QWEN2, {"tensor": 2}, 3, "3 ranks do not divide"),
        (QWEN2, {"expert": 2}, 2, "no experts"),
        (QWEN2, {"context": 2, "tensor": 2}, 4, "parallel.tensor x parallel.context is 2 x 2"),
        (QWEN2, {"sequence_parallel": True}, 1, "needs parallel.tensor > 1"),
        (QWEN2, {"tensor": 0}, 1, "at least 1"),
        (MOE, {"expert": 3}, 3, "must divide the model's 4 experts"),
        (MOE, {"tensor": 2}, 2, "need parallel.sequence_parallel"),
    ],
)
def test_layouts_that_cannot_be_are_refused(config, layout, world, message):
    with pytest.raises(ConfigError, match=message):
        check_layout(read_shape(config), ParallelConfig(**layout), world)


def test_checks_import_without_torch():
    code = "import sys, k15.train.shape, k15.train.packing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
