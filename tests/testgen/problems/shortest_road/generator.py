from cyaron import *


def generate(case, cases, io):
    kind = case % 5
    if case < 5:
        n, m = [(1, 0), (2, 0), (2, 1), (3, 2), (1, 3)][case]
        edges = [(randint(1, n), randint(1, n), randint(0, 9)) for _ in range(m)]
    elif kind == 0:  # a long chain of heavy roads, with heavier short cuts
        n = min(500, 5 * case)
        edges = [(i, i + 1, randint(5 * 10**8, 10**9)) for i in range(1, n)]
        edges += [(randint(1, n), randint(1, n), 10**9) for _ in range(n // 4)]
    elif kind == 1:
        n = min(500, 4 * case)
        graph = Graph.graph(n, 5 * n, directed=True, weight_limit=(0, 1000))
        edges = [(e.start, e.end, e.weight) for e in graph.iterate_edges()]
    elif kind == 2:  # sparse: often no way
        n = 3 * case
        edges = [(randint(1, n), randint(1, n), randint(0, 50)) for _ in range(n)]
    elif kind == 3:  # DAG where few roads are far longer than many
        n = min(300, 3 * case)
        edges = [(i, i + 1, randint(0, 3)) for i in range(1, n)] + [(1, n, 10 * n), (1, max(1, n // 2), 5 * n)]
        edges += [(u, randint(u, n), randint(1, 10**6)) for u in (randint(1, n) for _ in range(n))]
    else:
        n = min(500, 10 * case)
        graph = Graph.hack_spfa(n, directed=True, weight_limit=(1, 10**9))
        edges = [(e.start, e.end, e.weight) for e in graph.iterate_edges()]
    shuffled = sorted(edges[:3000], key=lambda _: random.random())
    io.input_writeln(n, len(shuffled))
    for e in shuffled:
        io.input_writeln(*e)
