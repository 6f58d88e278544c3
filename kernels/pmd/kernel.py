"""Triton for `pmd_loss`: one launch from log-probs to loss, log-ratios and coefficients, one (in backward) to the gradient.

    _forward    reads logprob, ref, mask once. A tile finishes the sequences that lie within it and leaves two parts, of the
                sequence that it begins in and of the one that it ends in; the program that is done last joins those parts
    _gradient   reads mask, writes d_logprob [T] = (g_loss coefficient_s + g_ratio_s) mask_t
    _finish     sums [3, S] -> the same results as _forward, where other ranks' sums are added between the two

Tiles are BLOCK neighbouring tokens wherever sequences begin, so one giant sequence and thousands of tiny ones load the
chip alike. Sums are INTEGERS: a term x is split into floor(x 2^16) and the rest times 2^56, and each is added in int64.
Integer addition has no order, hence a sequence's sum depends neither on its place in the pack nor on how it is split over
tiles, ranks or devices. A term is exact but for 2^-56, so log_ratio is the rounded true sum. The loss is added in fp64, in
an order that depends on the bounds only.

Who is last: every program stores its parts with one thread, then adds 1 to a counter with a release, as the same thread;
who finds tiles - 1 there has acquired all parts, reads them past the L1, and sets the counter to 0 for the next launch.
Nobody waits for anybody, so no program needs another one to be running.

Shapes: T tokens, S sequences, cu_seqlens int32 [S+1], tiles = ceil(T / BLOCK), at least 1.
"""

import triton
import triton.language as tl

MAX_TOKENS = 1 << 23
"""Packed tokens in one call: the low parts of so many terms still fit in an int64."""
SEARCH = 128  # bounds looked at together while searching a token's sequence
_HIGH: tl.constexpr = tl.constexpr(65536.0)  # 2^16
_LOW: tl.constexpr = tl.constexpr(1099511627776.0)  # 2^40: the rest of x 2^16, in units of 2^-56
_LARGEST: tl.constexpr = tl.constexpr(16777216.0)  # 2^24: a larger term, an infinity or a NaN makes its sequence NaN
_NEVER: tl.constexpr = tl.constexpr(2147483647)  # a bound past the last one

# Rows of parts [PARTS, tiles], int64: high, low and unusable terms of the part that a tile begins in; the same of what the next
# tile's sequence has up to there; the loss of the tile's own sequences (bits of an fp64); the sequence that began before and
# ends here, or -1; 1 if a sequence leaves the tile that began in it, plus 2 for each wrong bound.
PARTS = 9


@triton.jit
def _first_at_or_after(cu_ptr, sequences, token, SEARCH: tl.constexpr):
    """First s in 0..S with cu[s] >= token: a search with SEARCH branches, two rounds for 16,384 sequences."""
    low = token * 0
    size = low + sequences + 1
    lanes = tl.arange(0, SEARCH)
    while size > 1:
        step = (size + SEARCH - 1) // SEARCH
        at = lanes * step
        bounds = tl.load(cu_ptr + low + at, mask=at < size, other=_NEVER)
        chosen = tl.maximum(tl.sum((bounds < token).to(tl.int32)) - 1, 0) * step
        low += chosen
        size = tl.minimum(step, size - chosen)
    return tl.minimum(low + (tl.load(cu_ptr + low) < token).to(tl.int32), sequences)


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


@triton.jit
def _before(run, at):
    """Sum of the first `at` elements, given the inclusive running sums [BLOCK]; at in 0..BLOCK."""
    return tl.where(at > 0, tl.gather(run, tl.maximum(at - 1, 0), 0), 0)


@triton.jit
def _restart(high, low, bad, new, next_high, next_low, next_bad, next_new):
    """Running sums that begin again where `new` is not 0: what tl.associative_scan combines."""
    goes_on = next_new == 0
    high = tl.where(goes_on, high, 0) + next_high
    low = tl.where(goes_on, low, 0) + next_low
    bad = tl.where(goes_on, bad, 0) + next_bad
    return high, low, bad, new | next_new


@triton.jit
def _settle(
    s, chosen, high, low, bad, sequences, tau,
    reward_ptr, baseline_ptr, weight_ptr, extra_ptr, ratio_ptr, coefficient_ptr,
    HAS_WEIGHT: tl.constexpr, HAS_EXTRA: tl.constexpr,
):  # fmt: skip
    """Stores log-ratio and coefficient of the chosen sequences s, whose sums are complete; their weight x gap^2, 0 elsewhere."""
    reward = tl.load(reward_ptr + s, mask=chosen, other=0.0).to(tl.float64)
    baseline = tl.load(baseline_ptr + s, mask=chosen, other=0.0).to(tl.float64)
    weight = reward * 0.0 + 1.0 / sequences.to(tl.float64)
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + s, mask=chosen, other=0.0).to(tl.float64)
    ratio = (high.to(tl.float64) + low.to(tl.float64) / _LOW) / _HIGH
    if HAS_EXTRA:
        ratio += tl.load(extra_ptr + s, mask=chosen, other=0.0).to(tl.float64)
    ratio = tl.where(bad > 0, float("nan"), ratio)
    gap = reward - baseline - tau * ratio  # fp64: gaps cancel, and there are only S of them
    tl.store(ratio_ptr + s, ratio.to(tl.float32), mask=chosen)
    tl.store(coefficient_ptr + s, (-weight * gap).to(tl.float32), mask=chosen)
    return tl.where(chosen, weight * gap * gap, 0.0)


@triton.jit
def _store_sums(sums_ptr, s, chosen, high, low, bad, sequences):
    tl.store(sums_ptr + s, high, mask=chosen)
    tl.store(sums_ptr + sequences + s, low, mask=chosen)
    tl.store(sums_ptr + 2 * sequences + s, bad.to(tl.int64), mask=chosen)


@triton.jit
def _wrong_bounds(cu_ptr, first, stop, tokens, sequences, ALLOW_EMPTY: tl.constexpr, LANES: tl.constexpr):
    """How many of the sequences first..stop-1 fall (or, unless allowed, are empty); in the pack's first part also its ends."""
    wrong = first * 0
    if first == 0:
        wrong += ((tl.load(cu_ptr) != 0) | (tl.load(cu_ptr + sequences) != tokens)).to(tl.int32)
    for at in range(first, stop, LANES):
        s = at + tl.arange(0, LANES)
        inside = s < stop
        # Compared, not subtracted: the difference of two wrong bounds may not fit.
        begin, end = tl.load(cu_ptr + s, mask=inside, other=0), tl.load(cu_ptr + s + 1, mask=inside, other=1)
        falls = end < begin if ALLOW_EMPTY else end <= begin
        wrong += tl.sum((falls & inside).to(tl.int32))
    return wrong


@triton.jit
def _all_nan(ratio_ptr, coefficient_ptr, sequences, LANES: tl.constexpr):
    nothing = tl.full([LANES], float("nan"), tl.float32)
    tl.debug_barrier()  # after what other threads of this program stored there
    for at in range(0, sequences, LANES):
        s = at + tl.arange(0, LANES)
        tl.store(ratio_ptr + s, nothing, mask=s < sequences)
        tl.store(coefficient_ptr + s, nothing, mask=s < sequences)


@triton.jit
def _join(
    parts_ptr, cu_ptr, reward_ptr, baseline_ptr, weight_ptr, extra_ptr, loss_ptr, ratio_ptr, coefficient_ptr, sums_ptr,
    sequences, tiles, tau,
    HAS_WEIGHT: tl.constexpr, HAS_EXTRA: tl.constexpr, SUMS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The last program's work: sequences over several tiles, and the loss. Loads bypass the L1."""
    lanes = tl.arange(0, LANES)
    total = tl.zeros([LANES], tl.float64)
    wrong = tiles * 0
    carry_high = tl.full([], 0, tl.int64)
    carry_low = tl.full([], 0, tl.int64)
    carry_bad = tl.full([], 0, tl.int64)
    for at in range(0, tiles, LANES):
        tile = at + lanes
        inside = tile < tiles
        before = inside & (tile > 0)
        here, previous = parts_ptr + tile, parts_ptr + tile - 1
        new = (tl.load(previous + 8 * tiles, mask=before, other=0, cache_modifier=".cg") & 1).to(tl.int32)
        carried = (lanes == 0) & (new == 0)
        high = tl.load(previous + 3 * tiles, mask=before, other=0, cache_modifier=".cg") + tl.where(carried, carry_high, 0)
        low = tl.load(previous + 4 * tiles, mask=before, other=0, cache_modifier=".cg") + tl.where(carried, carry_low, 0)
        bad = tl.load(previous + 5 * tiles, mask=before, other=0, cache_modifier=".cg") + tl.where(carried, carry_bad, 0)
        high, low, bad, new = tl.associative_scan((high, low, bad, new), 0, _restart)
        last = lanes == LANES - 1
        carry_high = tl.sum(tl.where(last, high, 0))
        carry_low = tl.sum(tl.where(last, low, 0))
        carry_bad = tl.sum(tl.where(last, bad, 0))
        high += tl.load(here, mask=inside, other=0, cache_modifier=".cg")
        low += tl.load(here + tiles, mask=inside, other=0, cache_modifier=".cg")
        bad += tl.load(here + 2 * tiles, mask=inside, other=0, cache_modifier=".cg")
        s = tl.load(here + 7 * tiles, mask=inside, other=-1, cache_modifier=".cg").to(tl.int32)
        if SUMS:
            _store_sums(sums_ptr, s, s >= 0, high, low, bad, sequences)
        else:
            own = tl.load(here + 6 * tiles, mask=inside, other=0, cache_modifier=".cg").to(tl.float64, bitcast=True)
            total += own + _settle(
                s, s >= 0, high, low, bad, sequences, tau, reward_ptr, baseline_ptr, weight_ptr, extra_ptr,
                ratio_ptr, coefficient_ptr, HAS_WEIGHT, HAS_EXTRA,
            )  # fmt: skip
            wrong += tl.sum(tl.load(here + 8 * tiles, mask=inside, other=0, cache_modifier=".cg") >> 1).to(tl.int32)
    if not SUMS:
        loss = tl.sum(total) / (2.0 * tau)
        if wrong > 0:
            _all_nan(ratio_ptr, coefficient_ptr, sequences, LANES)
            loss = float("nan") * loss
        tl.store(loss_ptr, loss.to(tl.float32))


@triton.jit(do_not_specialize=["tokens", "sequences"])
def _forward(
    logprob_ptr, ref_ptr, mask_ptr, cu_ptr, reward_ptr, baseline_ptr, weight_ptr, extra_ptr,
    loss_ptr, ratio_ptr, coefficient_ptr,  # unless SUMS
    sums_ptr,  # int64 [3, S]: high, low, number of unusable terms; if SUMS
    parts_ptr,  # int64 [PARTS, tiles]
    first_ptr,  # int32 [tiles + 1]: the sequence of each tile's first token (or an empty one just there), then S - 1
    ticket_ptr,  # int32, 0 before and after
    tokens, sequences,
    tau_high, tau_low,  # a float argument is fp32: tau comes in two pieces
    HAS_MASK: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_EXTRA: tl.constexpr, ALLOW_EMPTY: tl.constexpr, SUMS: tl.constexpr,
    SEARCH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, LAST: tl.constexpr,
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
    opened = _first_at_or_after(cu_ptr, sequences, start, SEARCH)
    bound = tl.load(cu_ptr + opened)
    term = x.to(tl.float64) - y.to(tl.float64)
    if HAS_MASK:
        if start + BLOCK <= tokens:
            term *= tl.load(mask_ptr + offs).to(tl.float64)
        else:
            term *= tl.load(mask_ptr + offs, mask=inside, other=0).to(tl.float64)
    good = tl.abs(term) < _LARGEST
    scaled = tl.where(good, term, 0.0) * _HIGH
    floor = tl.floor(scaled)
    run_high = tl.cumsum(floor.to(tl.int64), 0)
    run_low = tl.cumsum(((scaled - floor) * _LOW).to(tl.int64), 0)
    run_bad = tl.cumsum(1 - good.to(tl.int32), 0)
    tau = tl.full([], 1.0, tl.float64) * tau_high + tau_low
    total = tl.zeros([LANES], tl.float64)
    head_high = tl.full([], 0, tl.int64)
    head_low = tl.full([], 0, tl.int64)
    head_bad = tl.full([], 0, tl.int32)
    tail_high = tl.full([], 0, tl.int64)
    tail_low = tl.full([], 0, tl.int64)
    tail_bad = tl.full([], 0, tl.int32)
    leaves = tl.full([], 0, tl.int32)
    limit = stop + (tile == tiles - 1).to(tl.int32)  # empty sequences after the last token are the last tile's
    # The sequences that begin here, and (with nothing chosen) the bound after them: it ends the part that began before.
    at = opened
    more = opened >= 0
    while more:
        s = at + tl.arange(0, LANES)
        begin = tl.load(cu_ptr + s, mask=s <= sequences, other=_NEVER)
        end = tl.load(cu_ptr + s + 1, mask=s < sequences, other=_NEVER)
        mine = (s < sequences) & (begin < limit)
        a = tl.minimum(tl.maximum(begin, start), stop) - start
        b = tl.minimum(tl.maximum(end, start), stop) - start
        a_high, a_low, a_bad = _before(run_high, a), _before(run_low, a), _before(run_bad, a)
        high, low, bad = _before(run_high, b) - a_high, _before(run_low, b) - a_low, _before(run_bad, b) - a_bad
        whole, leaving = mine & (end <= stop), mine & (end > stop)
        if SUMS:
            _store_sums(sums_ptr, s, whole, high, low, bad, sequences)
        else:
            total += _settle(
                s, whole, high, low, bad, sequences, tau, reward_ptr, baseline_ptr, weight_ptr, extra_ptr,
                ratio_ptr, coefficient_ptr, HAS_WEIGHT, HAS_EXTRA,
            )  # fmt: skip
        leaves |= tl.max(leaving.to(tl.int32))
        tail_high += tl.sum(tl.where(leaving, high, 0))
        tail_low += tl.sum(tl.where(leaving, low, 0))
        tail_bad += tl.sum(tl.where(leaving, bad, 0))
        head_high += tl.sum(tl.where(s == opened, a_high, 0))
        head_low += tl.sum(tl.where(s == opened, a_low, 0))
        head_bad += tl.sum(tl.where(s == opened, a_bad, 0))
        at += LANES
        more = at < sequences
        if more:
            more = tl.load(cu_ptr + at) < limit
    share = (sequences + tiles - 1) // tiles
    last = tl.minimum(share * tile + share, sequences)
    wrong = tile * 0
    if not SUMS:  # else _finish looks
        wrong = _wrong_bounds(cu_ptr, share * tile, last, tokens, sequences, ALLOW_EMPTY, LANES)
    enters = (opened > 0) & (bound > start)
    tl.store(first_ptr + tile, tl.minimum(opened - enters.to(tl.int32), sequences - 1))
    if tile == tiles - 1:
        tl.store(first_ptr + tiles, sequences - 1)
    here = parts_ptr + tile
    tl.store(here, head_high)
    tl.store(here + tiles, head_low)
    tl.store(here + 2 * tiles, head_bad.to(tl.int64))
    tl.store(here + 3 * tiles, tl.where(leaves > 0, tail_high, head_high))
    tl.store(here + 4 * tiles, tl.where(leaves > 0, tail_low, head_low))
    tl.store(here + 5 * tiles, tl.where(leaves > 0, tail_bad, head_bad).to(tl.int64))
    tl.store(here + 6 * tiles, tl.sum(total).to(tl.int64, bitcast=True))
    tl.store(here + 7 * tiles, tl.where(enters & (bound <= stop), opened - 1, -1).to(tl.int64))
    tl.store(here + 8 * tiles, (leaves + 2 * wrong).to(tl.int64))
    tl.debug_barrier()  # results of this tile that _all_nan may overwrite were stored by other threads
    done = tl.atomic_add(ticket_ptr, 1, sem="acq_rel", scope="gpu")
    if done == tiles - 1:
        _join(
            parts_ptr, cu_ptr, reward_ptr, baseline_ptr, weight_ptr, extra_ptr, loss_ptr, ratio_ptr, coefficient_ptr, sums_ptr,
            sequences, tiles, tau, HAS_WEIGHT, HAS_EXTRA, SUMS, LAST,
        )  # fmt: skip
        tl.store(ticket_ptr, 0)


@triton.jit(do_not_specialize=["tokens", "sequences"])
def _finish(
    sums_ptr, cu_ptr, reward_ptr, baseline_ptr, weight_ptr, extra_ptr, loss_ptr, ratio_ptr, coefficient_ptr,
    tokens, sequences, tau_high, tau_low,
    HAS_WEIGHT: tl.constexpr, HAS_EXTRA: tl.constexpr, ALLOW_EMPTY: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """One program: the results from sums [3, S] of all ranks."""
    tau = tl.full([], 1.0, tl.float64) * tau_high + tau_low
    total = tl.zeros([LANES], tl.float64)
    for at in range(0, sequences, LANES):
        s = at + tl.arange(0, LANES)
        inside = s < sequences
        high = tl.load(sums_ptr + s, mask=inside, other=0)
        low = tl.load(sums_ptr + sequences + s, mask=inside, other=0)
        bad = tl.load(sums_ptr + 2 * sequences + s, mask=inside, other=0)
        total += _settle(
            s, inside, high, low, bad, sequences, tau, reward_ptr, baseline_ptr, weight_ptr, extra_ptr,
            ratio_ptr, coefficient_ptr, HAS_WEIGHT, HAS_EXTRA,
        )  # fmt: skip
    loss = tl.sum(total) / (2.0 * tau)
    if _wrong_bounds(cu_ptr, tokens * 0, sequences, tokens, sequences, ALLOW_EMPTY, LANES) > 0:
        _all_nan(ratio_ptr, coefficient_ptr, sequences, LANES)
        loss = float("nan") * loss
    tl.store(loss_ptr, loss.to(tl.float32))


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
