"""What the planner has to know of a run, all in one place: model, layout, and the tokens of an iteration."""

from dataclasses import dataclass

from k15.config.schema import ParallelConfig
from k15.train.shape import ModelShape


@dataclass(frozen=True)
class TrainJob:
    """One training phase. Lengths in tokens.

    `ranks`: trainer ranks, `per_node` of them on a node. `pack`: tokens of a full micro-batch; a sequence that is longer has
    one of its own, up to `longest`. `sequences` of `length` tokens on average (`response` of them sampled; `squared`: the mean
    of their squares, 0 where all are alike) make an iteration of `steps` optimizer steps. `reset`: moments are forgotten
    before each iteration, so that none are held in the backward pass of a single step. `local`: Megatron's torch layers
    (CPU), else Transformer Engine and flash-attn.
    """

    shape: ModelShape
    parallel: ParallelConfig
    ranks: int
    per_node: int
    dtype_bytes: int
    pack: int
    sequences: int
    length: float
    response: float
    steps: int = 1
    reset: bool = True
    local: bool = False
    longest: int = 0
    squared: float = 0.0

    @property
    def data(self) -> int:
        """Data-parallel ranks."""
        p = self.parallel
        return self.ranks // (p.tensor * p.pipeline * p.context)

    @property
    def expert_data(self) -> int:
        """Ranks that hold the same experts (tensor parallelism does not split them)."""
        return self.ranks // (self.parallel.pipeline * self.parallel.expert)

    @property
    def pack_here(self) -> float:
        """Most tokens of a micro-batch on one context-parallel rank."""
        return max(self.pack, self.length, self.longest) / self.parallel.context

    @property
    def micro_batches(self) -> int:
        """Of an optimizer step, on each data-parallel rank."""
        tokens = self.sequences * self.length / self.steps / self.data
        return max(1, -(-int(tokens) // int(max(self.pack, self.length))))

    @property
    def nodes_of_model(self) -> int:
        """Nodes over which one copy of all weights lies. A pipeline stage's ranks are neighbours; of them `tensor` hold its dense
        weights, `expert` its experts."""
        p = self.parallel
        stage = self.ranks // p.pipeline
        if stage < self.per_node:  # several stages share a node
            return -(-self.ranks // self.per_node)
        wide = max(p.tensor, p.expert) if self.shape.experts else p.tensor
        return p.pipeline * -(-wide // self.per_node)

    @property
    def idle(self) -> float:
        """How much longer a step takes because some data-parallel ranks have no sequence in it; 1: all have."""
        return max(1.0, self.data * self.steps / self.sequences)

    @property
    def mean_square(self) -> float:
        """Of a sequence's length: what attention's work goes by."""
        return self.squared if self.squared > 0 else self.length**2
