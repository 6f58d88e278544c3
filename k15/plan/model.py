"""How many parameters a rank holds, and where, from a model's shape and a layout, as Megatron splits them."""

from dataclasses import dataclass

from k15.config.schema import ParallelConfig
from k15.train.shape import ModelShape


@dataclass(frozen=True)
class Held:
    """Parameters of one rank: `dense` are copied over data- and context-parallel ranks, `expert` over expert-data-parallel ones.

    `largest`: of the largest single layer (or embedding), which export and recomputation hold once more.
    """

    dense: int
    expert: int
    largest: int

    @property
    def total(self) -> int:
        return self.dense + self.expert


def attention(shape: ModelShape, tensor: int = 1) -> int:
    """Parameters of one layer's attention on a tensor-parallel rank."""
    h = shape.hidden
    if shape.latent is not None:
        latent, heads = shape.latent, shape.heads // tensor
        rank = latent.query_rank
        query = h * heads * shape.head_dim if rank is None else h * rank + rank + rank * heads * shape.head_dim
        keys = h * (latent.kv_rank + latent.rotated) + latent.kv_rank
        keys += latent.kv_rank * heads * (latent.plain + latent.value)
        return query + keys + heads * latent.value * h
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found = (queries + 2 * keys) * h // tensor + queries * h // tensor
    found += (queries + 2 * keys) // tensor if shape.qkv_bias else 0
    return found + (2 * shape.head_dim if shape.qk_norm else 0)


def dense_layer(shape: ModelShape, tensor: int = 1) -> int:
    """Attention, two norms and a gated feed-forward network."""
    return attention(shape, tensor) + 2 * shape.hidden + 3 * shape.hidden * shape.intermediate // tensor


def sparse_layer(shape: ModelShape, tensor: int = 1) -> int:
    """Attention, norms, router and shared experts; without the routed experts."""
    shared = 3 * shape.hidden * shape.shared_intermediate // tensor
    bias = shape.experts if shape.router.sigmoid else 0
    return attention(shape, tensor) + 2 * shape.hidden + shape.hidden * shape.experts + bias + shared


def expert(shape: ModelShape) -> int:
    return 3 * shape.hidden * shape.expert_intermediate


def total(shape: ModelShape) -> int:
    """All parameters of the model, tied embeddings once."""
    sparse = len(shape.sparse)
    layers = (shape.layers - sparse) * dense_layer(shape) + sparse * (sparse_layer(shape) + shape.experts * expert(shape))
    head = shape.hidden if shape.scalar else 0 if shape.tied else shape.vocab * shape.hidden
    return layers + shape.hidden + shape.vocab * shape.hidden + head


def active(shape: ModelShape) -> int:
    """Parameters that one token meets, without the embedding."""
    sparse = len(shape.sparse)
    met = sparse_layer(shape) + shape.experts_per_token * expert(shape) if sparse else 0
    head = shape.hidden * (1 if shape.scalar else shape.vocab)
    return (shape.layers - sparse) * dense_layer(shape) + sparse * met + shape.hidden + head


def padded_vocab(vocab: int, tensor: int) -> int:
    """Rounded up so that it divides over the tensor-parallel ranks."""
    return -(-vocab // tensor) * tensor


def held(shape: ModelShape, parallel: ParallelConfig, stage: int) -> Held:
    """What a rank of pipeline stage `stage` (from 0) holds."""
    tp, pp, ep = parallel.tensor, parallel.pipeline, parallel.expert
    layers = range(stage * shape.layers // pp, (stage + 1) * shape.layers // pp)
    sparse = sum(n in shape.sparse for n in layers)
    per_dense = dense_layer(shape, tp) if sparse < len(layers) else 0
    per_sparse = sparse_layer(shape, tp) if sparse else 0
    routed = shape.experts // ep * expert(shape) if sparse else 0
    dense = (len(layers) - sparse) * per_dense + sparse * per_sparse
    vocab = padded_vocab(shape.vocab, tp) // tp * shape.hidden
    first, last = stage == 0, stage == pp - 1
    dense += vocab if first else 0
    if last:
        dense += shape.hidden + (shape.hidden if shape.scalar else 0 if shape.tied and first else vocab)
    return Held(dense, sparse * routed, max(per_dense, per_sparse + routed, vocab if first or last else 0))
