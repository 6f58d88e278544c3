  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted.some((x, i) => i > 0 && x - sorted[i - 1] < threshold);
}
