"""Log-probabilities of given tokens from hidden states and the output weight, alone or fused with the loss.

api.py      linear_logprob: picks a path, joins it to autograd     fused.py    linear_pmd: loss and gradients in one pass
naive.py    the reference                                          chunked.py  the PyTorch path
kernel.py   Triton kernels and their host wrappers                 blocks.py   one block of logits at a time, either path
product.py  matrix products with fp32 results                      tuning.py   block sizes by device
check.py    what a call may be given                               warm.py     compiles everything before training
terms.py    the loss beside its log-probs
"""

from .api import linear_logprob
from .check import check_arrived
from .fused import linear_pmd
from .naive import IGNORE, linear_logprob_naive
from .warm import warm_up

__all__ = ["IGNORE", "check_arrived", "linear_logprob", "linear_logprob_naive", "linear_pmd", "warm_up"]
