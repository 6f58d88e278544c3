"""The replay buffer under random interleavings of phases, aborts, crashes, saves and loads."""

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from k15.errors import DataError
from k15.rollout.buffer import ReplayBuffer
from k15.rollout.seeds import new_group
from k15.types import Group, Prompt, Rollout, Segment

FINISHES = st.sampled_from(["stop", "length", "repetition", "budget", "budget", "abort", None])


class BufferMachine(RuleBasedStateMachine):
    """`truth` is the longest version of each rollout that any phase has handed over to the buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = ReplayBuffer()
        self.truth: dict[str, Group] = {}
        self.delivered: dict[str, Group] = {}
        self.out: list[Group] = []
        self.version = 0

    def extend(self, r: Rollout, data) -> Rollout:
        finish = data.draw(FINISHES)
        if r.finished or finish is None:
            return r
        tokens = tuple(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4)))
        logprobs = tuple(data.draw(st.floats(-20, 0, width=32)) for _ in tokens)
        return r.extended(Segment(tokens, logprobs, self.version, finish))

    def phase(self, groups: list[Group], data) -> list[Group]:
        self.version += 1
        done = [Group(g.prompt, tuple(self.extend(r, data) for r in g.rollouts)) for g in groups]
        self.truth |= {g.prompt.id: g for g in done}
        return done

    @precondition(lambda self: not self.out)
    @rule()
    def take(self):
        self.out = self.buffer.take_unfinished()
        assert all(not g.finished for g in self.out)

    @rule(data=st.data(), n=st.integers(0, 3), k=st.integers(1, 3))
    def run(self, data, n, k):
        ids = [f"p{len(self.truth) + i}" for i in range(n)]
        new = [new_group(Prompt(i, "", "4", meta={"n": 1}), (1, 2), k, run_seed=0, draw=0) for i in ids]
        self.buffer.add(self.phase([*self.out, *new], data))
        self.out = []

    @rule()
    def save_and_load(self):
        state = json.dumps(self.buffer.state_dict())
        self.buffer, self.out = ReplayBuffer(), []  # what was out is lost with the process
        self.buffer.load_state_dict(json.loads(state))

    @rule()
    def deliver(self):
        for group in self.buffer.take_completed():
            assert group.finished and group.prompt.id not in self.delivered
            self.delivered[group.prompt.id] = group

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def refuse_what_was_tampered_with(self, data):
        group = data.draw(st.sampled_from(self.out))
        r = group.rollouts[0]
        if r.segments:
            s = r.segments[0]
            changed = Segment((s.tokens[0] + 1, *s.tokens[1:]), s.logprobs, s.version, s.finish)
            bad = Rollout(r.prompt_id, r.index, r.seed, r.prompt_tokens, (changed, *r.segments[1:]))
            with pytest.raises(DataError, match="another prefix"):
                self.buffer.add([Group(group.prompt, (bad, *group.rollouts[1:]))])
        with pytest.raises(DataError, match="came back with rollouts"):
            self.buffer.add([Group(group.prompt, group.rollouts[1:])])

    @invariant()
    def every_trajectory_is_somewhere_exactly_once(self):
        state = self.buffer.state_dict()
        held = [g["prompt"]["id"] for place in state.values() for g in place]
        assert sorted([*held, *self.delivered]) == sorted(self.truth)
        assert len(self.buffer) == len(held) and all(key in self.buffer for key in held)
        for place in state.values():
            for row in place:
                assert row["rollouts"] == json.loads(json.dumps(row["rollouts"]))
        fresh = ReplayBuffer()
        fresh.load_state_dict(state)
        for group in [*fresh.take_unfinished(), *fresh.take_completed(), *self.delivered.values()]:
            assert group == self.truth[group.prompt.id]


BufferMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
test_buffer_machine = BufferMachine.TestCase


def test_a_prompt_is_never_held_twice_and_a_refused_add_changes_nothing():
    buffer = ReplayBuffer()
    a, b = (new_group(Prompt(i, "", ""), (1,), 2, run_seed=0, draw=0) for i in "ab")
    buffer.add([a])
    with pytest.raises(DataError, match="prompt 'a' is in the replay buffer already"):
        buffer.add([b, a])
    assert len(buffer) == 1 and "b" not in buffer
    with pytest.raises(DataError, match="'b' is in"):
        buffer.add([b, b])
    state = buffer.state_dict()
    with pytest.raises(DataError, match="no 'completed'"):
        buffer.load_state_dict({"waiting": []})
    with pytest.raises(DataError, match="saved as completed"):
        buffer.load_state_dict({"waiting": [], "completed": state["waiting"]})
    with pytest.raises(DataError, match="not a saved group"):
        buffer.load_state_dict({"waiting": [{"prompt": {}}], "completed": []})
    assert buffer.state_dict() == state
