"""Triton for `pmd_loss`: two launches from log-probs to loss, log-ratios and coefficients, one (in backward) to the gradient.

    _sums       reads logprob, ref, mask once; a tile stores, for each sequence that it touches, the sum of its terms there
    _finish     adds each sequence's sums, tile after tile, and squares: log-ratios, coefficients, loss
    _total      adds the losses where the sequences are too many for one program of _finish
    _gradient   reads mask, writes d_logprob [T] = (g_loss coefficient_s + g_ratio_s) mask_t

Tiles are BLOCK neighbouring tokens wherever sequences begin, so one giant sequence and many short ones load the chip alike.
Going on from one piece (a tile's part of a sequence) to the next, either the sequence's or the tile's number grows by one:
the piece of sequence s in tile t has place s + t in `parts`, no other one has, and nobody needs to count or to share.
Every sum has a fixed order, so results repeat bit for bit. Terms and sums are fp64: without a group of ranks
(whose rounded sums are added in fp32) a log-ratio is the true sum, rounded, and where gaps nearly cancel the result is no worse
than PyTorch's (fp32 sums failed that in 3 of 100 random packs).

Shapes: T tokens, S sequences, cu_seqlens int32 [S+1], tiles = ceil(T / BLOCK), at least 1.
"""

import triton
import triton.language as tl

SEARCH = 128  # bounds looked at together while searching a token's sequence
_NEVER: tl.constexpr = tl.constexpr(2147483647)  # a bound past the last one


@triton.jit
def _sequence_at(cu_ptr, sequences, token, SEARCH: tl.constexpr):
    """Last s in 0..S-1 with cu[s] <= token (0 if none): a search with SEARCH branches, two rounds for 16,384 sequences."""
    low = token * 0
    size = low + sequences
    lanes = tl.arange(0, SEARCH)
    while size > 1:
        step = (size + SEARCH - 1) // SEARCH
        at = lanes * step
        bounds = tl.load(cu_ptr + low + at, mask=at < size, other=_NEVER)
        chosen = tl.maximum(tl.sum((bounds <= token).to(tl.int32)) - 1, 0) * step
        low += chosen
        size = tl.minimum(step, size - chosen)
    return low


@triton.jit
def _sequences_of(cu_ptr, first, last, tokens):
    """Sequences of a tile of tokens, which are among first..last: a binary search, all tokens in step."""
    low = tokens * 0 + first
    size = last - first + 1
    while size > 1:
        half = size // 2
        low = tl.where(tl.load(cu_ptr + low + half) <= tokens, low + half, low)
        size -= half
    return low


@triton.jit(do_not_specialize=["tokens", "sequences"])
def _sums(
    logprob_ptr, ref_ptr, mask_ptr, cu_ptr,
    parts_ptr,  # fp64 [S + tiles]: the piece of sequence s in tile t at s + t; places of no piece are not written
    first_ptr,  # int32 [tiles + 1]: the sequence of each tile's first token, then S - 1
    tokens, sequences,
    HAS_MASK: tl.constexpr, SEARCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile, tiles = tl.program_id(0), tl.num_programs(0)
    start = tile * BLOCK
    stop = tl.minimum(start + BLOCK, tokens)
    offs = start + tl.arange(0, BLOCK)
    inside = offs < tokens
    # Loads first, their use after the search: the two wait together. Full tiles load 16 bytes at once whatever T is.
    if start + BLOCK <= tokens:
        x = tl.load(logprob_ptr + offs)
        y = tl.load(ref_ptr + offs)
    else:
        x = tl.load(logprob_ptr + offs, mask=inside, other=0.0)
        y = tl.load(ref_ptr + offs, mask=inside, other=0.0)
    s = _sequence_at(cu_ptr, sequences, start, SEARCH)
    tl.store(first_ptr + tile, s)
    if tile == tiles - 1:
        tl.store(first_ptr + tiles, sequences - 1)
    term = x.to(tl.float64) - y.to(tl.float64)
    if HAS_MASK:
        if start + BLOCK <= tokens:
            term *= tl.load(mask_ptr + offs).to(tl.float64)
        else:
            term *= tl.load(mask_ptr + offs, mask=inside, other=0).to(tl.float64)
    begin = start
    while (begin < stop) & (s < sequences):  # the second: wrong bounds end somewhere
        end = tl.minimum(tl.load(cu_ptr + s + 1), stop)
        piece = tl.where((offs >= begin) & (offs < end), term, 0.0)
        tl.store(parts_ptr + s + tile, tl.sum(piece))
        begin = tl.maximum(begin, end)
        s += 1


@triton.jit
def _own_sums(parts_ptr, s, begin, end, BLOCK: tl.constexpr, LANES: tl.constexpr, PARTS: tl.constexpr):
    """Sums [LANES], fp64, of the pieces of sequences s, which are the tokens begin..end-1 (none: 0)."""
    total = tl.zeros([LANES], tl.float64)
    first = begin // BLOCK
    pieces = tl.where(end > begin, (end - 1) // BLOCK - first + 1, 0)
    for at in range(0, tl.max(pieces), PARTS):
        j = at + tl.arange(0, PARTS)[None, :]
        part = tl.load(parts_ptr + (s + first)[:, None] + j, mask=j < pieces[:, None], other=0.0)
        total += tl.sum(part, 1)
    return total


@triton.jit
def _conclude(total, wrong, loss_ptr, ratio_ptr, coefficient_ptr, sequences, tau, LANES: tl.constexpr):
    """Stores the loss; where bounds were wrong, NaN there and in every other result."""
    loss = total / (2.0 * tau)
    if wrong > 0:
        loss = float("nan") * loss
        nothing = tl.full([LANES], float("nan"), tl.float32)
        tl.debug_barrier()  # after what other threads stored there
        for at in range(0, sequences, LANES):
            s = at + tl.arange(0, LANES)
            tl.store(ratio_ptr + s, nothing, mask=s < sequences)
            tl.store(coefficient_ptr + s, nothing, mask=s < sequences)
    tl.store(loss_ptr, loss.to(tl.float32))


@triton.jit(do_not_specialize=["tokens", "sequences"])
def _finish(
    parts_ptr, cu_ptr, reward_ptr, baseline_ptr, weight_ptr, extra_ptr, loss_ptr, ratio_ptr, coefficient_ptr,
    totals_ptr,  # fp64 [2, programs]: what each has of the loss, how many bounds are wrong; unless ALONE
    tokens, sequences,
    tau_high, tau_low,  # a float argument is fp32: tau comes in two pieces
    HAS_PARTS: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_EXTRA: tl.constexpr, ALLOW_EMPTY: tl.constexpr,
    ALONE: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """LANES sequences a program. Without parts the log-ratios are `extra` alone."""
    group = tl.program_id(0)
    tau = tl.full([], 1.0, tl.float64) * tau_high + tau_low
    s = group * LANES + tl.arange(0, LANES)
    inside = s < sequences
    # Compared, not subtracted: the difference of two wrong bounds may not fit.
    begin, end = tl.load(cu_ptr + s, mask=inside, other=0), tl.load(cu_ptr + s + 1, mask=inside, other=0)
    falls = end < begin if ALLOW_EMPTY else end <= begin
    ends = (tl.load(cu_ptr) != 0) | (tl.load(cu_ptr + sequences) != tokens)
    wrong = tl.sum((falls & inside).to(tl.int32)) + ends.to(tl.int32)
    reward = tl.load(reward_ptr + s, mask=inside, other=0.0).to(tl.float64)
    baseline = tl.load(baseline_ptr + s, mask=inside, other=0.0).to(tl.float64)
    weight = tl.zeros([LANES], tl.float64) + 1.0 / sequences.to(tl.float64)
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + s, mask=inside, other=0.0).to(tl.float64)
    ratio = tl.zeros([LANES], tl.float64)
    if HAS_PARTS:
        lowest, highest = tl.maximum(begin, 0), tl.minimum(end, tokens)  # in memory even where they are wrong
        ratio += _own_sums(parts_ptr, s, lowest, highest, BLOCK, LANES, PARTS)
    if HAS_EXTRA:
        ratio += tl.load(extra_ptr + s, mask=inside, other=0.0).to(tl.float64)
    gap = reward - baseline - tau * ratio  # fp64: gaps cancel, and there are only S of them
    tl.store(ratio_ptr + s, ratio.to(tl.float32), mask=inside)
    tl.store(coefficient_ptr + s, (-weight * gap).to(tl.float32), mask=inside)
    total = tl.sum(tl.where(inside, weight * gap * gap, 0.0))
    if ALONE:
        _conclude(total, wrong, loss_ptr, ratio_ptr, coefficient_ptr, sequences, tau, LANES)
    else:
        tl.store(totals_ptr + group, total)
        tl.store(totals_ptr + tl.num_programs(0) + group, wrong.to(tl.float64))


@triton.jit(do_not_specialize=["groups", "sequences"])
def _total(totals_ptr, loss_ptr, ratio_ptr, coefficient_ptr, groups, sequences, tau_high, tau_low, LANES: tl.constexpr):
    """One program."""
    tau = tl.full([], 1.0, tl.float64) * tau_high + tau_low
    total = tl.zeros([LANES], tl.float64)
    wrong = tl.zeros([LANES], tl.float64)
    for at in range(0, groups, LANES):
        group = at + tl.arange(0, LANES)
        total += tl.load(totals_ptr + group, mask=group < groups, other=0.0)
        wrong += tl.load(totals_ptr + groups + group, mask=group < groups, other=0.0)
    _conclude(tl.sum(total), tl.sum(wrong), loss_ptr, ratio_ptr, coefficient_ptr, sequences, tau, LANES)


@triton.jit(do_not_specialize=["tokens"])
def _gradient(
    mask_ptr, cu_ptr, first_ptr, coefficient_ptr, g_loss_ptr, g_ratio_ptr, grad_ptr, tokens,
    HAS_MASK: tl.constexpr, HAS_LOSS: tl.constexpr, HAS_RATIO: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    start = tile * BLOCK
    offs = start + tl.arange(0, BLOCK)
    inside = offs < tokens
    full = start + BLOCK <= tokens
    m = tl.full([BLOCK], 1.0, tl.float32)
    if HAS_MASK:
        if full:
            m = tl.load(mask_ptr + offs).to(tl.float32)
        else:
            m = tl.load(mask_ptr + offs, mask=inside, other=0).to(tl.float32)
    first, last = tl.load(first_ptr + tile), tl.load(first_ptr + tile + 1)
    s = tl.full([BLOCK], 0, tl.int32) + first
    if first < last:
        s = _sequences_of(cu_ptr, first, last, tl.minimum(offs, tokens - 1))
    d = tl.zeros([BLOCK], tl.float32)
    if HAS_LOSS:
        d += tl.load(g_loss_ptr) * tl.load(coefficient_ptr + s)
    if HAS_RATIO:
        d += tl.load(g_ratio_ptr + s)
    d *= m
    if full:
        tl.store(grad_ptr + offs, d.to(grad_ptr.dtype.element_ty))
    else:
        tl.store(grad_ptr + offs, d.to(grad_ptr.dtype.element_ty), mask=inside)
