"""The gradient of ten thousand optima (K = 6) costs little beside solving for them.

    python benchmarks/allocation_gradient_cost.py [--quick]

Times the batch solver alone and with the full reverse-mode gradient of a loss of all tokens and all
objectives with respect to all fields: compiled, and eager on all cores. The opponent is cvxpylayers
with Moreau, which differentiates the same problem in conic form, on the first lanes of the same
batch; its tokens and gradients are checked before it is timed. Sides are interleaved, and processor
time (all threads) stands beside wall time, since a busy machine disturbs it less. `--quick`: few
rounds, without the opponent.
"""

import common
import jax
import jax.numpy as jnp
import numpy as np
import problems

import jaxalloc

LANES, NUM_TYPES, OPPONENT_LANES = 10_000, 6, 64


def loss_of(solve, weight):
    """A loss of everything an optimum has: tokens, weighted at random, and objective."""

    def loss(workload):
        tokens, value = solve(workload)
        return jnp.sum(tokens * weight) + jnp.sum(value)

    return loss


def own(workload):
    best = jaxalloc.solve_batch(workload)
    return best.tokens, best.objective


def make_opponent(k):
    """The same optimum by cvxpylayers and Moreau, differentiable in the fields of the workload."""
    import cvxpy
    from cvxpylayers.jax import CvxpyLayer

    above, low_slack, high_slack = cvxpy.Variable(k), cvxpy.Variable(k), cvxpy.Variable(k)
    idle = cvxpy.Variable()
    prize, seconds, load, root, first = (cvxpy.Parameter(k, nonneg=True) for _ in range(5))
    width, idle_at_min = cvxpy.Parameter(k), cvxpy.Parameter()
    wait = cvxpy.quad_over_lin(first + cvxpy.multiply(root, above), idle) / 2
    cost = prize @ cvxpy.exp(-above) + seconds @ above + wait
    # Bounds through variables of their own: written plainly, Moreau returned wrong tokens.
    bounds = [low_slack == -above, low_slack <= 0, high_slack == above - width, high_slack <= 0]
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [*bounds, idle <= idle_at_min - load @ above])
    parameters = [prize, seconds, load, root, first, width, idle_at_min]
    layer = CvxpyLayer(problem, parameters=parameters, variables=[above], solver="MOREAU")

    def solve(w):
        rate, weight = w.arrival_rate[:, None], w.accuracy_weight[:, None]
        per_unit = w.time_per_token / w.decay
        time_at_min = w.base_time + w.time_per_token * w.min_tokens
        spread = jnp.sqrt(rate * w.mix * (1 + w.service_cv**2))
        (above,) = layer(
            weight * w.mix * w.gain * jnp.exp(-w.decay * w.min_tokens),
            w.mix * per_unit,
            rate * w.mix * per_unit,
            spread * per_unit,
            spread * time_at_min,
            w.decay * (w.max_tokens - w.min_tokens),
            1 - jnp.sum(rate * w.mix * time_at_min, axis=1),
        )
        tokens = w.min_tokens + above / w.decay
        return tokens, jax.vmap(jaxalloc.objective)(w, tokens)

    return solve


def cost_of_gradient(batch, weight, rounds):
    """Solve alone against solve and full gradient."""
    both = jax.value_and_grad(loss_of(own, weight))
    # All that a caller gets: without the status XLA would leave the certificate out.
    solve, gradient = jax.jit(jaxalloc.solve_batch), jax.jit(both)
    times = common.interleave(
        {
            "solve, compiled": lambda: solve(batch),
            "solve + gradient, compiled": lambda: gradient(batch),
            "solve, eager": lambda: jaxalloc.solve_batch(batch),
            "solve + gradient, eager": lambda: both(batch),
        },
        rounds,
    )
    ratios = {
        f"ratio with gradient, {kind}, {clock}, {statistic}": times[f"solve + gradient, {kind}"][
            clock
        ][statistic]
        / times[f"solve, {kind}"][clock][statistic]
        for kind in ("compiled", "eager")
        for clock in ("wall", "processor")
        for statistic in ("median", "best")
    }
    common.show(ratios)
    return times | ratios


def against_opponent(everyone, weight, rounds):
    """cvxpylayers + Moreau: checked, then timed on the first lanes."""
    few, few_weight = jax.tree.map(lambda x: x[:OPPONENT_LANES], (everyone, weight))
    solve = make_opponent(NUM_TYPES)
    error = np.abs(solve(few)[0] - own(few)[0]) / (few.max_tokens - few.min_tokens)
    mine, theirs = (jax.grad(loss_of(side, few_weight))(few) for side in (own, solve))
    gaps = []
    for name in ("accuracy_weight", "gain", "arrival_rate"):
        one, two = (
            np.asarray(getattr(g, name)).reshape(OPPONENT_LANES, -1) for g in (mine, theirs)
        )
        gaps.append(np.abs(one - two).max(axis=1) / (np.abs(one).max(axis=1) + 1e-12))
    compiled = jax.jit(jax.value_and_grad(loss_of(own, weight)))
    both = jax.value_and_grad(loss_of(solve, few_weight))
    sides = {"jaxalloc": lambda: compiled(everyone), "opponent": lambda: both(few)}
    times = common.interleave(sides, rounds)
    each = {
        "jaxalloc": times["jaxalloc"]["wall"]["median"] / LANES,
        "opponent": times["opponent"]["wall"]["median"] / OPPONENT_LANES,
    }
    return {
        **times,
        "opponent_lanes": OPPONENT_LANES,
        "tokens_right": np.mean(error.max(axis=1) < 1e-3),
        "gradients_right": np.mean(np.max(gaps, axis=0) < 1e-2),
        "seconds_per_workload": each,
        "times_faster": each["opponent"] / each["jaxalloc"],
    }


def measure(quick):
    batch = common.workloads(problems.random_workloads(0, LANES, NUM_TYPES))
    weight = jnp.asarray(np.random.default_rng(0).normal(size=batch.mix.shape))
    document = {"lanes": LANES, "num_types": NUM_TYPES, "dtype": "float64"}
    document["gradient"] = cost_of_gradient(batch, weight, 5 if quick else 31)
    if not quick:
        document["cvxpylayers + Moreau"] = against_opponent(batch, weight, 5)
    return document


if __name__ == "__main__":
    common.main(__file__, measure)
