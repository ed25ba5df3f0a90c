"""A_min as a compact numba event loop, at its best: the opponent of the speed benchmark.

Plain case only: every request is there at 0 and lower bounds are right. O(running) work a turn: the
usage planned at every running request's planned end is kept up to date, checks stop at the first
violation, and time jumps to the next round in which something can happen. Instances run in
parallel threads.
"""

import numba
import numpy as np

NEVER = np.int64(1) << 62


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


@numba.njit(cache=True)
def run(prompt, output, lower, capacity, finish, evictions):
    """One instance; fills `finish` and `evictions`."""
    n = output.shape[0]
    shift = np.int64(1)
    while (1 << shift) < n:
        shift += 1
    mask = (np.int64(1) << shift) - 1
    keys = np.empty(n, np.int64)
    for i in range(n):
        evictions[i] = 0
        keys[i] = (np.int64(max(lower[i], 1)) << shift) | i
    keys.sort()
    head = 0
    pool = np.empty(n, np.int64)
    pooled = 0
    # the running, without gaps: packed key, start, planned end, end, offset, planned usage
    who = np.empty(n, np.int64)
    start = np.empty(n, np.int32)
    planned = np.empty(n, np.int32)
    ends = np.empty(n, np.int32)
    offset = np.empty(n, np.int32)
    usage = np.empty(n, np.int32)
    k = 0
    total = np.int64(0)  # of the offsets
    done = 0
    t = np.int32(0)
    retry = np.int64(0)
    next_end = NEVER
    while done < n:
        # complete
        if next_end <= t:
            next_end = NEVER
            j = 0
            while j < k:
                if ends[j] == t:
                    finish[who[j] & mask] = t
                    total -= offset[j]
                    done += 1
                    k -= 1
                    who[j] = who[k]
                    start[j] = start[k]
                    planned[j] = planned[k]
                    ends[j] = ends[k]
                    offset[j] = offset[k]
                    usage[j] = usage[k]
                else:
                    next_end = min(next_end, ends[j])
                    j += 1
        # overflow
        while total + k * (t + 1) > capacity:
            best = NEVER
            victim = 0
            for j in range(k):
                key = max(who[j], (np.int64(t - start[j]) << shift) | (who[j] & mask))
                if key < best:
                    best = key
                    victim = j
            evictions[best & mask] += 1
            pooled = _push(pool, pooled, best)
            q, c = offset[victim], planned[victim]
            total -= q
            k -= 1
            who[victim] = who[k]
            start[victim] = start[k]
            planned[victim] = planned[k]
            ends[victim] = ends[k]
            offset[victim] = offset[k]
            usage[victim] = usage[k]
            if c > t:
                for j in range(k):
                    if planned[j] <= c:
                        usage[j] -= q + planned[j]
            retry = 0
        # admit
        while retry <= t:
            from_pool = pooled > 0 and (head >= n or pool[0] < keys[head])
            if not from_pool and head >= n:
                retry = NEVER
                break
            key = pool[0] if from_pool else keys[head]
            i = key & mask
            length = min(key >> shift, capacity - prompt[i])
            end = np.int32(t + length)
            spare = np.int32(capacity - prompt[i])
            latest = min(np.int64(t + 1), total + k * (t + 1) + t + 1 - spare)
            then = np.int32(0)
            first = np.int32(0)
            for j in range(k):
                c = planned[j]
                if c > t and c <= end:
                    first = max(first, min(c, usage[j] + c - spare))
                if c >= end:
                    then += offset[j] + end
            latest = max(latest, first, min(end, then + end - spare))
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
            who[k] = key
            start[k] = t
            planned[k] = end
            ends[k] = t + output[i]
            offset[k] = q
            usage[k] = then + prompt[i] + length
            next_end = min(next_end, t + output[i])
            total += q
            k += 1
        # jump to the next end, overflow or admission
        if k == 0:
            t += 1
        else:
            overflow = (capacity - total) // k
            t = np.int32(max(t + 1, min(next_end, overflow, max(retry, t + 1))))


@numba.njit(parallel=True, cache=True)
def run_batch(prompt, output, lower, capacity, finish, evictions):
    """Every instance of a batch, [B, N]."""
    for b in numba.prange(output.shape[0]):
        run(prompt[b], output[b], lower[b], capacity, finish[b], evictions[b])
