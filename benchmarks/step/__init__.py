"""Samples/s of whole RL iterations: k15 beside TRL's GRPOTrainer, same model, prompts, k, lengths and machine, in one run.

settings -> model (made once, cached) -> k15, TRL, k15, TRL, ... -> gate -> result.json, bar chart
"""
