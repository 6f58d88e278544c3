"""The hand-off of weights from a trainer's layout to vLLM, by phase, beside what the machine can do."""
