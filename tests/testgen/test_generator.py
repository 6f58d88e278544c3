"""Generators run in the sandbox: seeded, each case for itself, whatever the generator does."""

import pytest

from k15.testgen.generator import case_seed, make_cases
from k15.testgen.settings import TestgenSettings

GRAPHS = """
from cyaron import *

def generate(case, cases, io):
    n = 2 + case
    io.input_writeln(n, [randint(0, 9) for _ in range(3)])
    io.input_writeln(Graph.tree(n, weight_limit=(1, 99)))
    io.input_writeln(String.random(5, charset="ab"), {1, 2, 3} & {3, case})
"""
HOSTILE = """
from cyaron import *
import os, random, signal

def generate(case, cases, io):
    io.input_writeln("begun")
    if case == 1:
        raise RuntimeError("no case today")
    if case == 2:
        while True:
            pass
    if case == 3:
        row = [0] * (1 << 34)
    if case == 4:
        while True:
            io.input_writeln("x" * 100000)
    if case == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if case == 6:
        os.close(io.input_file.fileno())
    if case == 7:
        io.output_gen("id; cat /etc/shadow")
    if case == 8:
        io.input_clear_content()
    if case == 9:
        random.seed(9)
        io.input_writeln(open("/etc/passwd").read(), os.getuid(), sorted(os.environ))
"""


def test_the_same_seed_makes_the_same_cases_and_another_seed_others(client):
    settings = TestgenSettings(cases=6, min_valid=1)
    first = make_cases(client, "p", GRAPHS, settings, "graphs-1")
    again = make_cases(client, "p", GRAPHS, settings, "graphs-2")
    assert [c.text for c in first] == [c.text for c in again] and all(c.text for c in first), first
    assert len({c.text for c in first}) == 6
    longer = make_cases(client, "p", GRAPHS, TestgenSettings(cases=9, min_valid=1), "graphs-3")
    assert [c.text for c in longer[:6]] == [c.text for c in first], "a case does not depend on how many there are"
    others = make_cases(client, "p", GRAPHS, TestgenSettings(cases=6, min_valid=1, seed=1), "graphs-4")
    assert not {c.text for c in others} & {c.text for c in first}
    assert first[3].text.splitlines()[0].split()[0] == "5" and len(first[3].text.splitlines()) == 1 + 4 + 1


def test_seeds_are_far_apart():
    seeds = {case_seed(s, p, i) for s in range(4) for p in ("a", "b", "a/1") for i in range(50)}
    assert len(seeds) == 600 and all(0 <= s < 1 << 63 for s in seeds)


def test_a_hostile_generator_loses_its_own_cases_only(client):
    settings = TestgenSettings(cases=11, min_valid=1, case_time_s=1.0, case_memory_mb=256, max_input_kb=64)
    cases = make_cases(client, "p", HOSTILE, settings, "hostile")
    assert [c.index for c in cases if c.text == "begun\n"] == [0, 10]
    said = {c.index: c.error for c in cases if c.text is None}
    for index, words in {
        1: "no case today",
        2: "signal 24",
        3: "MemoryError",
        5: "signal 9",
        7: "Output file",
        8: "empty",
    }.items():
        assert words in said[index], (index, said)
    assert "File too large" in said[4] and "Bad file descriptor" in said[6], said
    users = cases[9].text
    assert "65534" in users and "TOKEN" not in users and "root:x:0:0:root:/root:/usr/sbin/nologin" in users, (
        "the image's, not the host's"
    )


@pytest.mark.parametrize(
    ("generator", "said"),
    [
        ("x = (", "SyntaxError"),
        ("def make(case):\n    pass\n", "defines no function `generate"),
        ("from cyaron import *\nimport numpy\ndef generate(case, cases, io):\n    pass\n", "numpy"),
    ],
)
def test_a_generator_that_does_not_run_says_why(client, generator, said):
    cases = make_cases(client, "p", generator, TestgenSettings(cases=2, min_valid=1), f"bad-{len(generator)}")
    assert all(c.text is None and said in c.error for c in cases), cases
