"""The hand-off benchmark: its gate sees one wrong byte, its shapes are real models."""

import math
import os
import subprocess

import pytest
import torch

from benchmarks.handoff import node, run, transfer
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


def test_ranks_open_their_pipes_in_any_order_and_one_that_dies_ends_the_wait(tmp_path):
    pipes = [[tmp_path / f"{name}-{rank}" for name in node.Node.PIPES] for rank in range(2)]
    for pair in pipes:
        for pipe in pair:
            os.mkfifo(pipe)
    words = [f"exec 3<{into} 4>{out}; echo '{{\"rank\": {i}}}' >&4; exec cat <&3 >&4" for i, (into, out) in enumerate(pipes)]
    with subprocess.Popen(["sh", "-c", f"({words[1]}) & {words[0]}"]) as process:
        nodes = node.opened(pipes, process, 60)
        for rank, one in enumerate(nodes):
            assert one.answer() == {"rank": rank}
            one.tell(pull=rank + 7)
            assert one.answer() == {"pull": rank + 7}
        for one in nodes:
            one.into.close()
    with subprocess.Popen(["sh", "-c", f"exec 3<{pipes[0][0]}; exit 3"]) as process:
        with pytest.raises(RuntimeError, match="code 3 before rank [01] had started"):
            node.opened(pipes, process, 60)
    with subprocess.Popen(["sleep", "60"]) as process:
        with pytest.raises(RuntimeError, match="rank 0 has not started within 0 s"):
            node.opened(pipes, process, 0.2)
        process.kill()


def test_unknown_transports_are_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["--transports", "http,pigeon"])
    assert "'pigeon'; allowed: http, mooncake, mpi" in capsys.readouterr().err
