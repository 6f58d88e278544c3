"""The installed vLLM's own repetition check, the very functions of its scheduler, without the 12 s that importing vLLM costs."""

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

_NAMES = ("_has_repeating_pattern", "check_sequence_repetition")


def _load():
    source = Path(importlib.util.find_spec("vllm").origin).parent / "v1" / "core" / "sched" / "utils.py"
    found = [n for n in ast.parse(source.read_text()).body if isinstance(n, ast.FunctionDef) and n.name in _NAMES]
    assert [n.name for n in found] == list(_NAMES), f"this vLLM has {[n.name for n in found]}; expected {_NAMES}"
    space: dict[str, object] = {"Sequence": Sequence, "RepetitionDetectionParams": object}
    exec(compile(ast.Module(found, []), str(source), "exec"), space)
    return space["check_sequence_repetition"]


_check = _load()


def vllm_says(tokens: list[int], max_period: int, min_repeats: int, min_period: int = 1) -> bool:
    """vLLM's verdict on the whole of `tokens`."""
    params = SimpleNamespace(max_pattern_size=max_period, min_pattern_size=min_period, min_count=min_repeats)
    return _check(tokens, params)
