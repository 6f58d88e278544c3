  const known: Map<number, number> = new Map([[0, 0], [1, 1]]);
  for (let i = 2; i <= n; i++) known.set(i, known.get(i - 1)! + known.get(i - 2)!);
  return known.get(n) as number;
}
