"""A_min as a compact numba event loop, at its best: the opponent of the speed benchmark.

Plain case only: every request is there at 0 and lower bounds are right. O(running) work a turn: the
usage planned at every running request's planned end is kept up to date, checks stop at the first
violation, and time jumps to the next round in which something can happen. Instances run in
parallel threads.
"""

import numba
import numpy as np

NEVER = np.int64(1) << 62
_inline = numba.njit(cache=True, inline="always")


@numba.njit(cache=True)
def _push(heap, size, key):
    i = size
    while i > 0 and heap[(i - 1) >> 1] > key:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    heap[i] = key
    return size + 1


@numba.njit(cache=True)
def _pop(heap, size):
    size -= 1
    key = heap[size]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = key
    return size


@_inline
def _drop(running, j, k):
    """Fill the gap at j with the last of k; how many are left."""
    who, start, planned, ends, offset, usage = running
    k -= 1
    who[j], start[j], planned[j] = who[k], start[k], planned[k]
    ends[j], offset[j], usage[j] = ends[k], offset[k], usage[k]
    return k


@_inline
def _complete(t, running, k, total, mask, finish):
    """Those that end now leave; how many run, the sum of their offsets, and the next end."""
    who, _, _, ends, offset, _ = running
    next_end = NEVER
    j = 0
    while j < k:
        if ends[j] == t:
            finish[who[j] & mask] = t
            total -= offset[j]
            k = _drop(running, j, k)
        else:
            next_end = min(next_end, ends[j])
            j += 1
    return k, total, next_end


@_inline
def _evict(t, running, k, total, mask, shift):
    """The one of the smallest bound leaves: its key, how many run, the sum of their offsets."""
    who, start, planned, _, offset, usage = running
    best = NEVER
    victim = 0
    for j in range(k):
        key = max(who[j], (np.int64(t - start[j]) << shift) | (who[j] & mask))
        if key < best:
            best = key
            victim = j
    q, c = offset[victim], planned[victim]
    k = _drop(running, victim, k)
    if c > t:
        for j in range(k):
            if planned[j] <= c:
                usage[j] -= q + planned[j]
    return best, k, total - q


@_inline
def _room(t, end, spare, running, k, total):
    """The first round in which one that would end at `end` may start, as things stand."""
    _, _, planned, _, offset, usage = running
    latest = min(np.int64(t + 1), total + k * (t + 1) + t + 1 - spare)
    then = np.int32(0)
    first = np.int32(0)
    for j in range(k):
        c = planned[j]
        if c > t and c <= end:
            first = max(first, min(c, usage[j] + c - spare))
        if c >= end:
            then += offset[j] + end
    return max(latest, first, min(end, then + end - spare)), then


@numba.njit(cache=True)
def run(prompt, output, lower, capacity, finish, evictions):
    """One instance; fills `finish` and `evictions`."""
    n = output.shape[0]
    shift = np.int64(1)
    while (1 << shift) < n:
        shift += 1
    mask = (np.int64(1) << shift) - 1
    keys, pool, who = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    start, planned, ends = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    offset, usage = np.empty(n, np.int32), np.empty(n, np.int32)
    running = (who, start, planned, ends, offset, usage)  # without gaps; who: the packed keys
    for i in range(n):
        evictions[i] = 0
        keys[i] = (np.int64(max(lower[i], 1)) << shift) | i
    keys.sort()
    head, pooled, k, left = 0, 0, 0, n
    total, retry = np.int64(0), np.int64(0)  # total: of the offsets
    next_end, t = NEVER, np.int32(0)
    while left > 0:
        if next_end <= t:
            before = k
            k, total, next_end = _complete(t, running, k, total, mask, finish)
            left -= before - k
        while total + k * (t + 1) > capacity:
            key, k, total = _evict(t, running, k, total, mask, shift)
            evictions[key & mask] += 1
            pooled = _push(pool, pooled, key)
            retry = 0
        while retry <= t:
            from_pool = pooled > 0 and (head >= n or pool[0] < keys[head])
            if not from_pool and head >= n:
                retry = NEVER
                break
            key = pool[0] if from_pool else keys[head]
            i = key & mask
            length = min(key >> shift, capacity - prompt[i])
            end, spare = np.int32(t + length), np.int32(capacity - prompt[i])
            latest, then = _room(t, end, spare, running, k, total)
            if latest > t:
                retry = latest
                break
            q = np.int32(prompt[i] - t)
            for j in range(k):
                usage[j] += q + planned[j] if planned[j] <= end else 0
            if from_pool:
                pooled = _pop(pool, pooled)
            else:
                head += 1
            who[k], start[k], planned[k], ends[k] = key, t, end, t + output[i]
            offset[k], usage[k] = q, then + prompt[i] + length
            next_end = min(next_end, t + output[i])
            total += q
            k += 1
        if k == 0:  # jump to the next end, overflow or admission
            t += 1
        else:
            overflow = (capacity - total) // k
            t = np.int32(max(t + 1, min(next_end, overflow, max(retry, t + 1))))


@numba.njit(parallel=True, cache=True)
def run_batch(prompt, output, lower, capacity, finish, evictions):
    """Every instance of a batch, [B, N]."""
    for b in numba.prange(output.shape[0]):
        run(prompt[b], output[b], lower[b], capacity, finish[b], evictions[b])
