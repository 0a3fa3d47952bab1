"""The Triton kernels behind `row_terms_triton`: a tile of scores lives in registers only.

The forward kernel passes over a row's keys once. As in row_terms_cpu.py all sums leave out the row's largest
entry m, so a larger entry in a later tile sends the old one into the sums, and rescales them. The backward
pass has one kernel for each gradient: a program adds up what it stores, in a fixed order and without atomic
additions, so that a run can be repeated bit by bit.

Shapes: see row_terms.py. Places of rows and keys have shapes that broadcast to the tile's, which is
(rows, keys) or, for the gradient of the keys, (keys, rows). A "pair" is a sequence and a head of it.
`problem` and `saved` are those of row_terms_triton.py.
"""

import torch
import triton
import triton.language as tl

from pipeline.guidance.targets import NO_TARGET

_LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
_NO_TARGET = tl.constexpr(NO_TARGET)


@triton.jit
def _program_pair(problem):
    """Pair, sequence and head of a program, int64 so that no offset made of them overflows; the pattern."""
    pair = tl.program_id(1).to(tl.int64)
    head = pair % problem.num_heads
    return pair, pair // problem.num_heads, head, tl.load(problem.pattern_of_head + head)


@triton.jit
def _block(vectors, sequence, head, places, num_places, head_size, BLOCK_D: tl.constexpr):
    """Addresses of the vectors at `places`, (places, BLOCK_D), and which of them there are."""
    entries, strides = tl.arange(0, BLOCK_D), vectors.strides
    first = vectors.data + sequence * strides[0] + head * strides[1]
    addresses = first + places[:, None].to(tl.int64) * strides[2] + entries[None, :] * strides[3]
    return addresses, (places < num_places)[:, None] & (entries < head_size)[None, :]


@triton.jit
def _load(vectors, sequence, head, places, num_places, head_size, BLOCK_D: tl.constexpr):
    """The vectors at `places`, (places, BLOCK_D), zero beyond the last place and entry."""
    addresses, inside = _block(vectors, sequence, head, places, num_places, head_size, BLOCK_D)
    return tl.load(addresses, mask=inside, other=0.0)


@triton.jit
def _scores(products, sequence, rows, keys, problem, MASK: tl.constexpr, MASK_PER_ROW: tl.constexpr):
    """Scores of a tile, float32, from its products q_i k_j.

    Forbidden keys get the lowest finite score, for the reason in row_terms_cpu.py. Places beyond the last key
    get minus infinity, which counts for nothing even in a row where every key is forbidden.
    """
    scores = products * problem.scaling
    if MASK == "spans":
        inside = rows < problem.num_rows
        place = sequence * problem.num_rows + rows
        first = tl.load(problem.spans + place, mask=inside, other=0)
        place += problem.num_sequences * problem.num_rows
        end = tl.load(problem.spans + place, mask=inside, other=0)
        scores = tl.where((keys >= first) & (keys < end), scores, _LOWEST)
    elif MASK != "none":
        strides = problem.mask.strides
        values = problem.mask.data + sequence * strides[0] + keys.to(tl.int64) * strides[3]
        inside = keys < problem.num_keys
        if MASK_PER_ROW:
            values += rows.to(tl.int64) * strides[2]
            inside = inside & (rows < problem.num_rows)
        if MASK == "bool":
            scores = tl.where(tl.load(values, mask=inside, other=0), scores, _LOWEST)
        else:
            scores += tl.load(values, mask=inside, other=0.0).to(tl.float32)
            scores = tl.maximum(scores, _LOWEST)
    return tl.where(keys < problem.num_keys, scores, float("-inf"))


@triton.jit
def _row_targets(pattern, sequence, rows, problem):
    """Of rows: the single target, and the bounds of the document that a column target is made of."""
    # Nothing is read of the single targets under a column pattern, whose place is beyond their last.
    num_single_rows = tl.where(pattern < problem.num_single, problem.num_rows, 0)
    place = (pattern * problem.num_sequences + sequence) * problem.num_rows + rows
    target = tl.load(problem.single + place, mask=rows < num_single_rows, other=_NO_TARGET)
    place = sequence * problem.num_rows + rows
    start = tl.load(problem.starts + place, mask=rows < problem.num_rows, other=0)
    end = tl.load(problem.ends + place, mask=rows < problem.num_rows, other=0)
    return target, start, end


@triton.jit
def _target_probs(pattern, sequence, keys, row_targets, problem):
    """Target probabilities of a tile, float32."""
    target, start, end = row_targets
    column = pattern - problem.num_single
    num_weights = tl.where(column >= 0, problem.num_keys, 0)
    place = (column * problem.num_sequences + sequence) * problem.num_keys + keys
    weights = tl.load(problem.columns + place, mask=keys < num_weights, other=0.0).to(tl.float32)
    return tl.where(keys == target, 1.0, tl.where((keys >= start) & (keys < end), weights, 0.0))


@triton.jit
def _log1p(x):
    """log(1 + x), x in [0, 1], with the digits of a small x (after Kahan)."""
    total = 1.0 + x
    same = total == 1.0
    return tl.where(same, x, tl.log(total) * (x / tl.where(same, 1.0, total - 1.0)))


@triton.jit
def _expm1(x):
    """exp(x) - 1, x <= 0, with the digits of a small x (after Kahan)."""
    power = tl.exp(x)
    near = (power > 0.5) & (power < 1.0)
    slope = tl.where(near, x / tl.log(tl.where(near, power, 0.5)), 1.0)
    return tl.where(power == 1.0, x, (power - 1.0) * slope)


@triton.jit
def forward_kernel(
    problem, errors, mass, kept, peaks,
    FORM: tl.constexpr, MASK: tl.constexpr, MASK_PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All that `forward` returns, for BLOCK rows of a pair."""
    pair, sequence, head, pattern = _program_pair(problem)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = places[:, None]
    query = _load(problem.query, sequence, head, places, problem.num_rows, problem.head_size, BLOCK_D)
    row_targets = _row_targets(pattern, sequence, rows, problem)
    state = _squared_start(BLOCK) if FORM == "squared" else _cross_entropy_start(BLOCK)
    for begin in range(0, problem.num_keys, STEP):
        keys = begin + tl.arange(0, STEP)
        key = _load(problem.key, sequence, head, keys, problem.num_keys, problem.head_size, BLOCK_D)
        products = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = _scores(products, sequence, rows, keys[None, :], problem, MASK, MASK_PER_ROW)
        probs = _target_probs(pattern, sequence, keys[None, :], row_targets, problem)
        if FORM == "squared":
            state = _squared_step(state, scores, probs, begin, keys[None, :])
        else:
            state = _cross_entropy_step(state, scores, probs)
    inside = places < problem.num_rows
    row = pair * problem.num_rows + places
    plane = tl.num_programs(1).to(tl.int64) * problem.num_rows
    if FORM == "squared":
        error, on_target, logsumexp, second, third = _squared_terms(state, problem.inverse_keep)
        tl.store(kept + 2 * plane + row, third, mask=inside)
        tl.store(peaks + row, state[1], mask=inside)
    else:
        error, on_target, logsumexp, second = _cross_entropy_terms(state)
    tl.store(errors + row, error, mask=inside)
    tl.store(mass + row, on_target, mask=inside)
    tl.store(kept + row, logsumexp, mask=inside)
    tl.store(kept + plane + row, second, mask=inside)


@triton.jit
def _squared_start(BLOCK: tl.constexpr):
    """State of rows before the first step, see `_squared_step`."""
    zero = tl.zeros((BLOCK,), tl.float32)
    nothing = tl.full((BLOCK,), float("-inf"), tl.float32)
    return nothing, tl.zeros((BLOCK,), tl.int32), zero, zero, zero, zero, zero, zero


@triton.jit
def _squared_step(state, scores, probs, begin, keys):
    """Take in the tile of the keys from `begin` on.

    State: s_m, m, p_m and, with x_j = exp(s_j - s_m), over j != m the sums of x_j, x_j^2, x_j p_j,
    [p_j > 0] x_j and p_j^2.
    """
    largest, peak, target_at_peak, off, off_square, product, on_target, target_square = state
    candidate, column = tl.max(scores, 1, return_indices=True)
    # The old peak, whose x is 1, joins the others where a larger score turns up. At the first step there is
    # none: the factor is exp(-inf).
    new = candidate > largest
    joins = tl.where(new, 1.0, 0.0)
    factor = tl.exp(tl.where(new, largest - candidate, 0.0))
    off = factor * (off + joins)
    off_square = factor * factor * (off_square + joins)
    product = factor * (product + joins * target_at_peak)
    on_target = factor * (on_target + tl.where(target_at_peak > 0, joins, 0.0))
    target_square += joins * target_at_peak * target_at_peak
    largest, peak = tl.maximum(largest, candidate), tl.where(new, begin + column, peak)

    is_peak = keys == peak[:, None]
    weights = tl.where(is_peak, 0.0, tl.exp(scores - largest[:, None]))
    off += tl.sum(weights, 1)
    off_square += tl.sum(weights * weights, 1)
    product += tl.sum(weights * probs, 1)
    on_target += tl.sum(tl.where(probs > 0, weights, 0.0), 1)
    target_square += tl.sum(tl.where(is_peak, 0.0, probs * probs), 1)
    target_at_peak = tl.where(new, tl.sum(tl.where(is_peak, probs, 0.0), 1), target_at_peak)
    return largest, peak, target_at_peak, off, off_square, product, on_target, target_square


@triton.jit
def _squared_terms(state, inverse_keep):
    """Error, mass, logsumexp, u and half the gradient at the peak over a_m."""
    largest, _, target_at_peak, off, off_square, product, on_target, target_square = state
    total = 1.0 + off
    at_peak, off, product = 1.0 / total, off / total, product / total
    off_square = off_square / total / total
    square = off_square + at_peak * at_peak
    mass = on_target / total + tl.where(target_at_peak > 0, at_peak, 0.0)
    # a_m - p_m; where both are near 1, not as the difference of two nearly equal numbers.
    difference = tl.where(target_at_peak > 0.5, (1.0 - target_at_peak) - off, at_peak - target_at_peak)
    distance = off_square + difference * difference + (target_square - 2.0 * product)
    error = tl.maximum(distance, 0.0) + square * (inverse_keep - 1.0)
    lift = (inverse_keep - target_at_peak) - off * inverse_keep  # a_m / k - p_m
    inner = (off_square * inverse_keep - product) + at_peak * lift
    pull_at_peak = off * lift - off_square * inverse_keep + product
    return error, mass, largest + tl.log(total), inner, pull_at_peak


@triton.jit
def _cross_entropy_start(BLOCK: tl.constexpr):
    """State of rows before the first step, see `_cross_entropy_step`."""
    zero, lowest = tl.zeros((BLOCK,), tl.float32), tl.full((BLOCK,), _LOWEST, tl.float32)
    return lowest, zero, lowest, zero


@triton.jit
def _cross_entropy_step(state, scores, probs):
    """Take in a tile.

    State: the largest score s of the targets and their sum of exp(score - s), then both for the other keys.
    """
    on_largest, on, off_largest, off = state
    is_target = probs > 0
    new_on = tl.maximum(on_largest, tl.max(tl.where(is_target, scores, _LOWEST), 1))
    new_off = tl.maximum(off_largest, tl.max(tl.where(is_target, _LOWEST, scores), 1))
    weights = tl.exp(scores - tl.where(is_target, new_on[:, None], new_off[:, None]))
    on = on * tl.exp(on_largest - new_on) + tl.sum(tl.where(is_target, weights, 0.0), 1)
    off = off * tl.exp(off_largest - new_off) + tl.sum(tl.where(is_target, 0.0, weights), 1)
    return new_on, on, new_off, off


@triton.jit
def _cross_entropy_terms(state):
    """Error, mass, and the logsumexps over all keys and over the targets."""
    on_largest, on, off_largest, off = state
    exists, log_on, log_off = on > 0, tl.log(on), tl.log(off)
    # Log of the attention off over that on target. The difference of logsumexps would be right to the size of
    # the scores only.
    odds = (off_largest - on_largest) + (log_off - log_on)
    rest = _log1p(tl.exp(-tl.abs(odds)))
    error = tl.where(exists, tl.maximum(odds, 0.0) + rest, 0.0)
    mass = tl.where(exists, tl.exp(-error), 0.0)
    log_on += on_largest
    logsumexp = tl.where(odds > 0, log_off + off_largest, log_on) + rest
    return error, mass, logsumexp, tl.where(exists, log_on, logsumexp)


@triton.jit
def grad_query_kernel(
    problem, saved, gradient,
    FORM: tl.constexpr, MASK: tl.constexpr, MASK_PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradient of BLOCK rows of a pair: sum over the keys of g_ij k_j, times the row's weight."""
    pair, sequence, head, pattern = _program_pair(problem)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = places[:, None]
    query = _load(problem.query, sequence, head, places, problem.num_rows, problem.head_size, BLOCK_D)
    row_targets = _row_targets(pattern, sequence, rows, problem)
    row_values = _row_values(pair, rows, saved, problem, FORM)
    total = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for begin in range(0, problem.num_keys, STEP):
        keys = begin + tl.arange(0, STEP)
        key = _load(problem.key, sequence, head, keys, problem.num_keys, problem.head_size, BLOCK_D)
        products = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = _scores(products, sequence, rows, keys[None, :], problem, MASK, MASK_PER_ROW)
        probs = _target_probs(pattern, sequence, keys[None, :], row_targets, problem)
        pull = _pull(scores, probs, keys[None, :], row_values, problem.inverse_keep, FORM)
        total += tl.dot(pull.to(key.dtype), key, input_precision="ieee")
    total *= _share(pair, rows, saved, problem) * (tl.load(saved.largest + pair) * problem.scaling)
    addresses, inside = _block(gradient, sequence, head, places, problem.num_rows, problem.head_size, BLOCK_D)
    tl.store(addresses, total, mask=inside)


@triton.jit
def grad_key_kernel(
    problem, saved, gradient,
    FORM: tl.constexpr, MASK: tl.constexpr, MASK_PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradient of BLOCK keys of a pair: sum over the rows of g_ij q_i times the row's weight."""
    pair, sequence, head, pattern = _program_pair(problem)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keys = places[:, None]
    key = _load(problem.key, sequence, head, places, problem.num_keys, problem.head_size, BLOCK_D)
    total = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for begin in range(0, problem.num_rows, STEP):
        rows = begin + tl.arange(0, STEP)
        query = _load(problem.query, sequence, head, rows, problem.num_rows, problem.head_size, BLOCK_D)
        row_targets = _row_targets(pattern, sequence, rows[None, :], problem)
        row_values = _row_values(pair, rows[None, :], saved, problem, FORM)
        products = tl.dot(key, tl.trans(query), input_precision="ieee")
        scores = _scores(products, sequence, rows[None, :], keys, problem, MASK, MASK_PER_ROW)
        probs = _target_probs(pattern, sequence, keys, row_targets, problem)
        pull = _pull(scores, probs, keys, row_values, problem.inverse_keep, FORM)
        pull *= _share(pair, rows[None, :], saved, problem)
        total += tl.dot(pull.to(query.dtype), query, input_precision="ieee")
    total *= tl.load(saved.largest + pair) * problem.scaling
    addresses, inside = _block(gradient, sequence, head, places, problem.num_keys, problem.head_size, BLOCK_D)
    tl.store(addresses, total, mask=inside)


@triton.jit
def _share(pair, rows, saved, problem):
    return tl.load(saved.share + pair * problem.num_rows + rows, mask=rows < problem.num_rows, other=0.0)


@triton.jit
def _row_values(pair, rows, saved, problem, FORM: tl.constexpr):
    """Of rows, what `_pull` needs: the first two kept numbers, and then the peak and the number for it.

    For "cross_entropy" the last is m - 1, made from the error, and the peak is not needed.
    """
    place = pair * problem.num_rows + rows
    plane = tl.num_programs(1).to(tl.int64) * problem.num_rows
    inside = rows < problem.num_rows
    # Infinity makes the attention of rows beyond the last zero.
    logsumexp = tl.load(saved.kept + place, mask=inside, other=float("inf"))
    second = tl.load(saved.kept + plane + place, mask=inside, other=0.0)
    if FORM == "squared":
        special = tl.load(saved.peak + place, mask=inside, other=0)
        third = tl.load(saved.kept + 2 * plane + place, mask=inside, other=0.0)
    else:
        special = rows
        third = _expm1(-tl.load(saved.errors + place, mask=inside, other=0.0))
    return logsumexp, second, special, third


@triton.jit
def _pull(scores, probs, keys, row_values, inverse_keep, FORM: tl.constexpr):
    """Gradient g of the rows' errors with respect to a tile's scores, float32, within [-4, 4]."""
    logsumexp, second, special, third = row_values
    attention = tl.exp(scores - logsumexp)
    if FORM == "squared":
        bracket = tl.where(keys == special, third, attention * inverse_keep - probs - second)
        pull = 2.0 * attention * bracket
    else:
        on_share = tl.where(probs > 0, tl.exp(scores - second), 0.0)
        pull = tl.where(probs > 0, on_share * third, attention)
    return pull
