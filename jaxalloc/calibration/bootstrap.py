"""Bootstrap replicates of an accuracy curve: what other data of the same kind would have given.

Without questions every answer is independent, and each replicate draws the counts of every level
from the fitted curve. With questions each replicate draws as many whole questions, with
replacement, as there are: answers to one question stay together.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalloc.backend import in_chunks
from jaxalloc.calibration.accuracy import as_counts, climb, gather, scale_of, unscaled
from jaxalloc.calibration.intervals import Intervals
from jaxalloc.calibration.likelihood import Counts, probability
from jaxalloc.calibration.rows import as_labels, check_level

PerReplicate = Float[Array, "*B R"]

_MOST_LEVELS = 512  # above, neighbouring budgets are counted at their mean
_MOST_REPLICATES_IN_A_CHUNK = 1 << 14, 1 << 20  # on a CPU, elsewhere


class Replicates(NamedTuple):
    """R curves for every task.

    Attributes:
      gain, decay, floor: [*B, R].
    """

    gain: PerReplicate
    decay: PerReplicate
    floor: PerReplicate


class Table(NamedTuple):
    """Counts of G questions at L levels; questions without trials stand last.

    Attributes:
      correct, trials: [*B, G, L].
    """

    correct: Float[Array, "*B G L"]
    trials: Float[Array, "*B G L"]


def bootstrap_accuracy(
    key: Any,
    tokens: Any,
    correct: Any,
    trials: Any = None,
    question: Any = None,
    replicates: int = 200,
) -> Replicates:
    """Accuracy curves fitted to bootstrap replicates of the rows of one task.

    Data that determine no curve give curves that say nothing: look at the status of the fit first.
    More than 512 different budgets are counted in 512 groups of neighbours, at their mean.

    Args:
      key: of `jax.random`.
      tokens, correct, trials, question: [N] as for `fit_accuracy`; concrete.
      replicates: R.

    >>> rows = [0, 256, 1024, 4096], [30, 58, 82, 90], [100, 100, 100, 100]
    >>> curves = bootstrap_accuracy(jax.random.key(0), *rows, replicates=500)
    >>> low, high = bootstrap_intervals(curves).floor
    >>> print(f"{low:.1f} to {high:.1f}")
    0.2 to 0.4
    """
    counts, concrete = as_counts(tokens, correct, trials)
    if not concrete:
        raise ValueError("bootstrap_accuracy counts its rows on the host: use bootstrap_counts")
    levels, place = _levels(counts)
    labels = as_labels(question, counts.tokens.shape)
    table = None if labels is None else _table(counts, place, np.asarray(labels), levels)
    return bootstrap_counts(key, levels, table, replicates)


def bootstrap_counts(
    key: Any, levels: Counts, table: Table | None = None, replicates: int = 200
) -> Replicates:
    """`bootstrap_accuracy` of many tasks that were counted already, all cores at work.

    Args:
      key: of `jax.random`.
      levels: [*B, L] counts of every task at each budget.
      table: the same by question; None: every answer is independent.
      replicates: R, for each task.
    """
    if replicates < 1:
        raise ValueError(f"replicates = {replicates} must be at least 1: try 200")
    shape = levels.tokens.shape[:-1]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(shape) :]), (levels, table))
    keys = jax.random.key_data(jax.random.split(key, flat[0].tokens.shape[0]))
    work = functools.partial(_bootstrap, replicates=replicates)
    cpu, accelerator = (max(1, most // replicates) for most in _MOST_REPLICATES_IN_A_CHUNK)
    curves = in_chunks(work, (keys, *flat), cpu=cpu, accelerator=accelerator)
    return jax.tree.map(lambda x: x.reshape(*shape, replicates), curves)


def bootstrap_intervals(curves: Replicates, level: float = 0.95) -> Intervals:
    """Percentile intervals, [*B, 2] lower and upper ends, of bootstrap replicates.

    >>> curves = Replicates(*(jnp.linspace(0, high, 101) for high in (1.0, 0.01, 0.5)))
    >>> low, high = bootstrap_intervals(curves, level=0.9).gain
    >>> print(f"{low:.2f} to {high:.2f}")
    0.05 to 0.95
    """
    check_level(level)
    tails = jnp.asarray([(1 - level) / 2, (1 + level) / 2], curves.gain.dtype)
    ends = [jnp.moveaxis(jnp.quantile(values, tails, axis=-1), 0, -1) for values in curves]
    return Intervals(*ends)


@functools.partial(jax.jit, static_argnames="replicates")
def _bootstrap(inputs: tuple[Any, Counts, Table | None], replicates: int) -> Replicates:
    def of_task(data: Any, levels: Counts, table: Table | None) -> Replicates:
        key = jax.random.wrap_key_data(data)
        scale = scale_of(levels)
        scaled = levels._replace(tokens=levels.tokens / scale)
        if table is None:
            drawn = _from_curve(key, scaled, replicates)
        else:
            drawn = _from_questions(key, scaled, table, replicates)
        tops = jax.vmap(climb)(drawn)
        return Replicates(*jax.vmap(lambda point: unscaled(point, scale))(tops.point))

    return jax.vmap(of_task)(*inputs)


def _from_curve(key: Any, levels: Counts, replicates: int) -> Counts:
    """[R, L] counts drawn from the fitted curve."""
    point = climb(levels).point
    gain, decay, floor = unscaled(point, jnp.ones_like(point[0]))
    p = jnp.clip(probability(levels.tokens, gain, decay, floor), 0, 1)
    shape = (replicates, *p.shape)
    trials = jnp.broadcast_to(levels.trials, shape)
    correct = jax.random.binomial(key, trials, p[None], shape, dtype=p.dtype)
    return Counts(jnp.broadcast_to(levels.tokens, shape), correct, trials)


def _from_questions(key: Any, levels: Counts, table: Table, replicates: int) -> Counts:
    """[R, L] counts of questions drawn with replacement."""
    size = table.trials.shape[0]
    number = jnp.sum(jnp.any(table.trials > 0, axis=-1))
    drawn = jax.random.randint(key, (replicates, size), 0, jnp.maximum(number, 1))
    taken = (jnp.arange(size) < number).astype(table.trials.dtype)
    times = jax.vmap(lambda chosen: jnp.zeros_like(taken).at[chosen].add(taken))(drawn)
    tokens = jnp.broadcast_to(levels.tokens, (replicates, *levels.tokens.shape))
    return Counts(tokens, times @ table.correct, times @ table.trials)


def _levels(counts: Counts) -> tuple[Counts, np.ndarray[Any, Any]]:
    """The counts at each budget, or group of budgets, and the level of every row."""
    tokens = np.asarray(counts.tokens)
    different, place = np.unique(tokens, return_inverse=True)
    if len(different) > _MOST_LEVELS:
        edges = np.linspace(0, len(different), _MOST_LEVELS + 1).astype(int)
        group = np.searchsorted(edges, np.arange(len(different)), side="right") - 1
        place = group[place]
        weight = np.asarray(counts.trials)
        mean = np.bincount(place, weight * tokens) / np.maximum(np.bincount(place, weight), 1e-30)
        counts = counts._replace(tokens=jnp.asarray(mean[place]))
        _, place = np.unique(np.asarray(counts.tokens), return_inverse=True)
    return gather(counts), place


def _table(counts: Counts, place: np.ndarray[Any, Any], question: Any, levels: Counts) -> Table:
    """[G, L] counts by question, G filled up to a power of two."""
    names, row = np.unique(question, return_inverse=True)
    size = max(8, 1 << (len(names) - 1).bit_length())
    width = levels.tokens.shape[0]
    cells = row * width + place
    correct, trials = (
        np.bincount(cells, np.asarray(values, float), size * width).reshape(size, width)
        for values in (counts.correct, counts.trials)
    )
    order = np.argsort(~trials.any(axis=1), kind="stable")
    dtype = levels.tokens.dtype
    return Table(jnp.asarray(correct[order], dtype), jnp.asarray(trials[order], dtype))
