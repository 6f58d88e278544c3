"""What a run will need and how long it will take, before it is queued: memory, layouts, step time, and a simulator.

Pure arithmetic on settings and config.json: no torch, no GPU, no job.
"""
