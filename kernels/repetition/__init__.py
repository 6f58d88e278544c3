"""Repetition: is the tail of a token sequence a pattern copied over and over? (report 2.6.2)."""

from .api import periodic_tail, warm_up
from .naive import periodic_tail_naive
from .state import RepetitionState

__all__ = ["RepetitionState", "periodic_tail", "periodic_tail_naive", "warm_up"]
