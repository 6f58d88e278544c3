"""How fast untrusted code is run and judged."""
