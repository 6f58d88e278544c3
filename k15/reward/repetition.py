"""The repetition penalty (report 2.6.2): what the rollout worker stopped on a repetition is penalised in the reward."""

from k15.types import Rollout


def repetition_reward(rollout: Rollout, penalty: float) -> float:
    """-penalty for a rollout that ended on a repetition, else 0. `penalty` >= 0."""
    return -penalty if rollout.finish == "repetition" and penalty else 0.0
