"""The hand-off benchmark: its gate sees one wrong byte, its shapes are real models."""

import math

import pytest
import torch

from benchmarks.handoff import transfer
from benchmarks.handoff.weights import SHAPE, Trainer, shape_of
from k15.weights import layout


def elements(config) -> int:
    return sum(math.prod(shape) for shape in layout.hf_shapes(config).values())


def test_the_shape_is_half_a_billion_or_what_is_asked_for():
    assert shape_of(None, torch.float32) == SHAPE and elements(SHAPE) == pytest.approx(494e6, rel=0.01)
    for gigabytes in (0.1, 0.5, 1.0, 8.0):
        assert elements(shape_of(gigabytes, torch.bfloat16)) * 2e-9 == pytest.approx(gigabytes, rel=0.2)


def test_two_nodes_by_phase_and_a_red_gate(monkeypatch):
    small = {**SHAPE, "num_hidden_layers": 2, "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256}
    trainer = Trainer({**small, "num_attention_heads": 4}, torch.bfloat16)
    with transfer.site(trainer, 2, "http") as here:
        run = here.hand_off(1)
        assert run["bytes"] >= sum(p.tensor.nbytes for p in trainer.slices())
        assert run["hot_node_copies"] == pytest.approx(1.0, abs=0.01)
        assert all(run[phase] > 0 for phase in ("export", "register", "verify", "transfer", "load"))
        read = transfer.read_segment

        def one_wrong(*words):
            for i, piece in enumerate(read(*words)):
                if i == 3:
                    piece.tensor.view(-1)[0] += 1
                yield piece

        monkeypatch.setattr(transfer, "read_segment", one_wrong)
        with pytest.raises(transfer.GateError, match="of version 1 arrived wrong on node 1"):
            here.hand_off(1)
