"""The replay buffer: unfinished groups wait here for their next segment (report 2.6.2).

    add ──▶ waiting ──take_unfinished──▶ out ──(a phase)──▶ add ──▶ waiting | completed ──take_completed──▶ gone

A prompt is held at most once, in one of the three places. A group that is out is still held, with the prefix it had:
state saved in the middle of a phase continues from there.
"""

from collections.abc import Mapping, Sequence

from k15.errors import DataError
from k15.rollout.records import group_from_json, group_to_json
from k15.types import Group, Rollout


class ReplayBuffer:
    """Holds whole groups, since rewards and baselines are computed over all k rollouts of a prompt."""

    def __init__(self) -> None:
        self._waiting: dict[str, Group] = {}
        self._out: dict[str, Group] = {}
        self._completed: dict[str, Group] = {}

    def __len__(self) -> int:
        """Prompts held, wherever they are."""
        return len(self._waiting) + len(self._out) + len(self._completed)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._waiting or prompt_id in self._out or prompt_id in self._completed

    @property
    def unfinished(self) -> int:
        """Groups that wait to be continued."""
        return len(self._waiting)

    @property
    def completed(self) -> list[Group]:
        """All finished groups, oldest first; the buffer still holds them."""
        return list(self._completed.values())

    def add(self, groups: Sequence[Group]) -> None:
        """Takes groups after a phase: new ones, and those that were out. All or none is taken.

        Raises DataError for a prompt that is held already, or a returned group that lost a rollout or whose prefix
        was changed.
        """
        seen: set[str] = set()
        for group in groups:
            key = group.prompt.id
            if key in seen or key in self._waiting or key in self._completed:
                raise DataError(f"prompt {key!r} is in the replay buffer already; a prompt is held once at a time")
            if key in self._out:
                _check_continues(self._out[key], group)
            seen.add(key)
        for group in groups:
            self._out.pop(group.prompt.id, None)
            (self._completed if group.finished else self._waiting)[group.prompt.id] = group

    def take_unfinished(self) -> list[Group]:
        """All waiting groups, oldest first. They are out until `add` brings them back."""
        taken = list(self._waiting.values())
        self._out |= self._waiting
        self._waiting = {}
        return taken

    def take_completed(self) -> list[Group]:
        """All finished groups, oldest first; the buffer forgets them."""
        taken, self._completed = self.completed, {}
        return taken

    def state_dict(self) -> dict[str, list]:
        """JSON-able. Groups that are out are saved as waiting."""
        waiting = [*self._out.values(), *self._waiting.values()]
        return {
            "waiting": [group_to_json(g) for g in waiting],
            "completed": [group_to_json(g) for g in self._completed.values()],
        }

    def load_state_dict(self, state: Mapping[str, list]) -> None:
        """Replaces what is held. Raises DataError for a malformed or inconsistent state, and then changes nothing."""
        fresh = ReplayBuffer()
        for place, finished in (("waiting", False), ("completed", True)):
            if place not in state:
                raise DataError(f"the replay buffer's state has no {place!r}; it has {sorted(state)}")
            groups = [group_from_json(row) for row in state[place]]
            if wrong := [g.prompt.id for g in groups if g.finished != finished]:
                raise DataError(f"saved as {place}, but that is not so: prompts {wrong[:3]}")
            fresh.add(groups)
        self._waiting, self._out, self._completed = fresh._waiting, {}, fresh._completed


def _check_continues(before: Group, after: Group) -> None:
    def named(group: Group) -> dict[int, Rollout]:
        return {r.index: r for r in group.rollouts}

    old, new = named(before), named(after)
    if old.keys() != new.keys() or len(after.rollouts) != len(before.rollouts):
        raise DataError(f"prompt {after.prompt.id!r} came back with rollouts {sorted(new)}, it left with {sorted(old)}")
    for index, r in new.items():
        was = old[index]
        same = (r.prompt_tokens, r.seed, r.segments[: len(was.segments)]) == (was.prompt_tokens, was.seed, was.segments)
        if not same:
            raise DataError(f"rollout {index} of prompt {after.prompt.id!r} came back with another prefix")
