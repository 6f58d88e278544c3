"""The audit of generated tests: its mutants are single changes, and its gate is red where it must be."""

import ast

from benchmarks.testgen.audit import Audit, kill_rates
from benchmarks.testgen.mutants import mutants
from benchmarks.testgen.run import gate
from k15.testgen.problems import Problem, Source

TEXT = "n = int(input())\nif n < 3 and n != 0:\n    n += 1\nprint(min(n, 7) % 2)\n"


def test_every_single_change_is_found_once():
    problem = Problem(
        "p", "", (Source("a.py", "python", TEXT), Source("b.py", "python", TEXT), Source("c.cpp", "cpp", "int main() {}"))
    )
    found = mutants(problem, 1000)
    texts = [m.text for m in found]
    plain = ast.unparse(ast.parse(TEXT))
    assert len(set(texts)) == len(texts) == 2 + 1 + 1 + 1 + 1 + 2 * 5  # comparisons, and, +=, min, %, five constants up and down
    for text in texts:
        differing = [(a, b) for a, b in zip(plain.splitlines(), text.splitlines(), strict=True) if a != b]
        assert len(differing) == 1, text
    assert [m.text for m in mutants(problem, 5)] == [m.text for m in mutants(problem, 5)]
    assert len(mutants(problem, 5)) == 5


def test_the_gate_and_the_rates_count_every_submission():
    killed = {f"w{i}": ("WA", i) for i in range(9)}
    good = Audit("good", 10, (), 10, ("w9",), killed)
    assert gate([good]) == [] and kill_rates([good], (1, 5, 9, 50)) == {1: 0.1, 5: 0.5, 9: 0.9, 50: 0.9}
    weak = Audit("weak", 10, (), 10, ("w8", "w9"), {n: killed[n] for n in list(killed)[:8]})
    strict = Audit("strict", 10, ("r1",), 9, (), killed)
    assert [line.split(":")[0] for line in gate([good, weak, strict])] == ["strict", "weak"]
    assert kill_rates([good, weak, strict], (50,)) == {50: round(26 / 29, 4)}
