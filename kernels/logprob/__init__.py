"""Log-probabilities of given tokens from hidden states and the output weight."""

from .api import linear_logprob
from .naive import IGNORE, linear_logprob_naive

__all__ = ["IGNORE", "linear_logprob", "linear_logprob_naive"]
