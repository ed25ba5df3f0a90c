"""Targets: the weight or the price at which the optimum meets a cap on time or tokens, or a goal.

Along the accuracy weight α both the mean system time E[T] and the mean accuracy of the optimum
never fall: with the optimality conditions, dE[T] = α d(accuracy) >= 0 (derived here). Along the
price of a token the mean tokens never rise. So each target is the root of a monotone function of
one number; its derivative is that of the implicit function.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxalloc.allocation.model.checks import number, one_workload
from jaxalloc.allocation.model.mg1 import mean_system_time, utilization
from jaxalloc.allocation.model.objective import evaluate, mean_accuracy, objective
from jaxalloc.allocation.model.root import increasing_root
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.optimum.masking import mask_failed, nothing_where_solved
from jaxalloc.allocation.optimum.solve import Allocation, classify, solve
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver

# How well a target must be met, relative to its scale, for CONVERGED, or be within reach.
_TOLERANCE = {"float64": 1e-8, "float32": 1e-4}

Measure = Callable[[Workload, Tokens], Scalar]


def solve_for_system_time(
    workload: Workload, seconds: Any, solver: Solver = Newton()
) -> tuple[Scalar, Allocation]:
    """The most accurate budgets whose mean system time is at most `seconds`.

    Returns (α, allocation): the accuracy weight at which the optimum takes `seconds`, and that
    optimum; the workload's own accuracy weight and token price play no part. If the cap is slack, α
    is inf and every type that thinking helps gets max_tokens. If even min_tokens take longer, the
    status is INFEASIBLE. Works under `jax.jit`, `jax.vmap` and differentiation; derivatives of a
    failed lane are NaN.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> weight, best = jaxalloc.solve_for_system_time(workload, 1.0)
    >>> print(f"{jaxalloc.mean_system_time(workload, best.tokens):.4f} s at {weight:.2f}")
    1.0000 s at 18.03
    """
    workload = one_workload(workload)
    target = number("seconds", seconds, workload)
    return _along_weight(workload, target, mean_system_time, solver, cap=True)


def solve_for_accuracy(
    workload: Workload, accuracy: Any, solver: Solver = Newton()
) -> tuple[Scalar, Allocation]:
    """The quickest budgets whose mean accuracy is at least `accuracy`.

    Returns (α, allocation): the accuracy weight at which the optimum is that accurate, and that
    optimum; the workload's own accuracy weight and token price play no part. If min_tokens are
    accurate enough, α is 0. If no stable budgets in the box are, the status is INFEASIBLE. Works
    under `jax.jit`, `jax.vmap` and differentiation; derivatives of a failed lane are NaN.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> weight, best = jaxalloc.solve_for_accuracy(workload, 0.45)
    >>> print(f"{jaxalloc.mean_accuracy(workload, best.tokens):.4f} at {weight:.1f}")
    0.4500 at 54.5
    """
    workload = one_workload(workload)
    target = number("accuracy", accuracy, workload)
    return _along_weight(workload, target, mean_accuracy, solver, cap=False)


def solve_for_mean_tokens(
    workload: Workload,
    mean_tokens: Any = None,
    solver: Solver = Newton(),
    *,
    price_per_token: Any = None,
) -> tuple[Scalar, Allocation]:
    """The best budgets of which a query gets at most `mean_tokens` on average.

    Returns (μ, allocation): the shadow price of a token, s / token, on top of the workload's own,
    and the maximizer of J - μ Σ π_k l_k; the allocation's objective is J. If the cap is slack, μ is
    0. If even min_tokens are more, the status is INFEASIBLE. Works under `jax.jit`, `jax.vmap` and
    differentiation; derivatives of a failed lane are NaN.

    Args:
      workload: one workload.
      mean_tokens: the cap on Σ π_k l_k.
      solver: as for `solve`.
      price_per_token: μ, given instead of found; then there is no cap.

    Raises:
      ValueError: both of `mean_tokens` and `price_per_token` are given, or neither.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> price, best = jaxalloc.solve_for_mean_tokens(workload, 500.0)
    >>> print(f"{(workload.mix * best.tokens).sum():.1f} tokens, {price:.2e} s each")
    500.0 tokens, 1.19e-03 s each
    """
    if (mean_tokens is None) == (price_per_token is None):
        raise ValueError(
            f"mean_tokens = {mean_tokens} and price_per_token = {price_per_token}: give one of them"
        )
    workload = one_workload(workload)
    if price_per_token is not None:
        return _at_price(workload, number("price_per_token", price_per_token, workload), solver)
    return _along_price(workload, number("mean_tokens", mean_tokens, workload), solver)


# Compiled as a whole: a search is made of closures, which would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames=("measure", "solver", "cap"))
def _along_weight(
    given: Workload, target: Scalar, measure: Measure, solver: Solver, *, cap: bool
) -> tuple[Scalar, Allocation]:
    """The weight at which `measure`, which rises with it, is `target`."""
    one = jnp.ones_like(target)
    workload = dataclasses.replace(given, accuracy_weight=one, token_price=0 * one)
    slightly = _TOLERANCE[str(target.dtype)] * target
    # The budgets as the weight goes to inf, where the queue is stable there.
    most = jnp.where(workload.gain > 0, workload.max_tokens, workload.min_tokens)
    lowest, highest = measure(workload, workload.min_tokens), measure(workload, most)
    stable = utilization(workload, most) < 1
    if cap:
        slack, reachable = stable & (highest <= target), lowest <= target + slightly
        limit, free = jnp.inf, most
    else:
        beyond = jnp.where(stable, highest >= target - slightly, _supremum(workload) > target)
        slack, reachable = lowest >= target, (lowest >= target) | beyond
        limit, free = 0.0, workload.min_tokens
    status = _classify(workload, target, slack, reachable)
    searching = (status == Status.CONVERGED) & ~slack
    safe = _only_where(searching, workload)

    def at(log_weight: Scalar) -> Workload:
        weight = jnp.where(searching, jnp.exp(log_weight), 0)
        return dataclasses.replace(safe, accuracy_weight=weight)

    bracket = _least_log_weight(safe, searching), one * jnp.inf
    root, best = _search(at, measure, target, searching, bracket, solver)
    weight = jnp.where(searching, jnp.exp(root), limit)
    # An infinite weight stays out of the derivatives, where 0 times it would be NaN.
    finite = jnp.where(weight < jnp.inf, weight, 0)
    tokens = jnp.where(searching, best.tokens, free)
    value = objective(dataclasses.replace(workload, accuracy_weight=finite), tokens)
    value = jnp.where(weight < jnp.inf, value, jnp.inf)
    ended = jnp.where(searching, best.status, status)
    best = best._replace(tokens=tokens, objective=value, status=ended)
    return _finish(given, target, weight, best)


@functools.partial(jax.jit, static_argnames="solver")
def _along_price(workload: Workload, target: Scalar, solver: Solver) -> tuple[Scalar, Allocation]:
    """The price per token at which the mean tokens, which fall with it, are `target`."""
    slightly = _TOLERANCE[str(target.dtype)] * target
    reachable = mean_tokens_of(workload, workload.min_tokens) <= target + slightly
    status = _classify(workload, target, jnp.isinf(target), reachable)
    solvable = status == Status.CONVERGED
    unpriced = solve(_only_where(solvable, workload), solver)
    status = jnp.where(solvable, unpriced.status, status)
    slack = mean_tokens_of(workload, unpriced.tokens) <= target
    searching = (status == Status.CONVERGED) & ~slack
    safe = _only_where(searching, workload)

    def at(negative_price: Scalar) -> Workload:
        return _priced(safe, jnp.where(searching, -negative_price, 0))

    # At this price no type is worth a token more than min_tokens.
    point = evaluate(safe, safe.min_tokens)
    worth = jnp.max(safe.time_per_token * point.price * point.excess)
    dearest = jax.lax.stop_gradient(jnp.where(searching, jnp.maximum(worth, 0), 0))
    bracket = -dearest, jnp.zeros_like(dearest)
    root, best = _search(at, mean_tokens_of, target, searching, bracket, solver)
    best = jax.tree.map(lambda one, two: jnp.where(searching, one, two), best, unpriced)
    ended = jnp.where(searching, best.status, status)
    best = best._replace(objective=objective(workload, best.tokens), status=ended)
    return _finish(workload, target, jnp.where(searching, -root, 0), best)


def _search(
    at: Callable[[Scalar], Workload],
    measure: Measure,
    target: Scalar,
    searching: Flag,
    bracket: tuple[Scalar, Scalar],
    solver: Solver,
) -> tuple[Scalar, Allocation]:
    """Where the optimum of a family of workloads meets the target, and that optimum.

    `measure` rises along the family. The status is MAX_STEPS if the search ended beside the target.
    """
    scale = jnp.where(searching & (target > 0), target, 1)

    def missed(parameter: Scalar) -> tuple[Scalar, Allocation]:
        lane = at(parameter)
        best = solve(lane, solver)
        return (measure(lane, best.tokens) - target) / scale, best

    def excess(parameter: Scalar) -> Scalar:
        value, best = missed(parameter)
        # What cannot be solved lies close to full utilization, beyond any target.
        value = jnp.where(best.status == Status.CONVERGED, value, jnp.inf)
        return jnp.where(searching, value, parameter)

    root = increasing_root(excess, *bracket)
    value, best = missed(root)
    met = jnp.abs(value) <= _TOLERANCE[str(target.dtype)]
    ended = jnp.where(met, best.status, Status.MAX_STEPS).astype(jnp.int32)
    return root, best._replace(status=ended)


@functools.partial(jax.jit, static_argnames="solver")
def _at_price(workload: Workload, price: Scalar, solver: Solver) -> tuple[Scalar, Allocation]:
    """The optimum at a given price per token, and that price."""
    best = solve(_priced(workload, price), solver)
    paid = price * mean_tokens_of(workload, best.tokens)
    return price, best._replace(objective=best.objective + paid)


def mean_tokens_of(workload: Workload, tokens: Tokens) -> Scalar:
    """Σ π_k l_k, the thinking tokens of an arriving query."""
    return jnp.sum(workload.mix * tokens)


def _priced(workload: Workload, price: Scalar) -> Workload:  # by so much more a token
    return dataclasses.replace(workload, token_price=workload.token_price + price)


def _only_where(wanted: Flag, workload: Workload) -> Workload:
    """The workload where it is wanted, elsewhere one that costs nothing to solve."""
    return mask_failed(workload, jnp.where(wanted, Status.CONVERGED, Status.INVALID))


def _classify(workload: Workload, target: Scalar, slack: Flag, reachable: Flag) -> Array:
    """The status before any search, where CONVERGED stands for "no objection"."""
    status = classify(workload)
    # The only infinite target with an answer is a slack one.
    missing = jnp.isnan(target) | (jnp.isinf(target) & reachable & ~slack)
    status = jnp.where(missing & (status != Status.INVALID), Status.NON_FINITE, status)
    return jnp.where((status == Status.CONVERGED) & ~reachable, Status.INFEASIBLE, status)


def _least_log_weight(workload: Workload, searching: Flag) -> Scalar:
    """ln α at which the first type is worth a token: up = down at min_tokens."""
    point = evaluate(workload, workload.min_tokens)
    steepest = jnp.where(workload.gain > 0, workload.gain * workload.decay, 1)
    log_weight = jnp.log(workload.time_per_token * point.price / steepest)
    log_weight = log_weight + workload.decay * workload.min_tokens
    first = jnp.min(jnp.where(workload.gain > 0, log_weight, jnp.inf))
    return jax.lax.stop_gradient(jnp.where(searching & (first < jnp.inf), first, 0))


def _supremum(workload: Workload) -> Scalar:
    """The accuracy that a server of full utilization approaches, ρ -> 1.

    The maximizer of Σ π p(l) with ρ = 1 balances A b e^{-b l} = ν c, where ρ falls with ν.
    """
    workload = jax.lax.stop_gradient(workload)
    gains = workload.gain > 0
    steepest = jnp.where(gains, workload.gain * workload.decay / workload.time_per_token, 1)

    def tokens_at(cheapness: Scalar) -> Tokens:  # -ln ν
        wanted = (jnp.log(steepest) + cheapness) / workload.decay
        wanted = jnp.clip(wanted, workload.min_tokens, workload.max_tokens)
        return jnp.where(gains, wanted, workload.min_tokens)

    def excess(cheapness: Scalar) -> Scalar:
        return utilization(workload, tokens_at(cheapness)) - 1

    low = jnp.min(workload.decay * workload.min_tokens - jnp.log(steepest))
    high = jnp.max(workload.decay * workload.max_tokens - jnp.log(steepest))
    return mean_accuracy(workload, tokens_at(increasing_root(excess, low, high)))


def _finish(
    workload: Workload, target: Scalar, multiplier: Scalar, best: Allocation
) -> tuple[Scalar, Allocation]:
    """What a failed lane returns is what `solve` returns of one; its derivatives are NaN."""
    failed = (best.status != Status.CONVERGED) & (best.status != Status.MAX_STEPS)
    infeasible = best.status == Status.INFEASIBLE
    everything = sum((jnp.sum(leaf) for leaf in jax.tree.leaves(workload)), target)
    nothing = nothing_where_solved(everything, best.status == Status.CONVERGED)
    least = jax.lax.stop_gradient(workload.min_tokens)
    no_tokens = jnp.where(infeasible, least, jnp.nan)
    no_value = jnp.where(infeasible, -jnp.inf, jnp.nan)
    return jnp.where(failed, jnp.nan, multiplier) + nothing, Allocation(
        tokens=jnp.where(failed, no_tokens, best.tokens) + nothing,
        objective=jnp.where(failed, no_value, best.objective) + nothing,
        residual=jnp.where(failed, jnp.inf, best.residual),
        steps=jnp.where(failed, 0, best.steps),
        status=best.status,
    )
