"""Decision-focused learning: accuracy curves predicted from features, trained through the solver.

A server answers K types of queries whose accuracy curves are unknown: gain and decay of each must
be predicted from noisy features before tokens are allotted. The same small network is trained
twice from the same start with the same optimizer: once on the error of its parameters, once on what
counts, the objective that its allocation realizes under the true curves, differentiated through the
solver. Both are judged by their regret on servers not seen in training: the objective lost against
knowing the curves, in seconds.

    python benchmarks/allocation_decision_focused.py [--quick]

`--quick`: one seed, few steps.
"""

import dataclasses
import functools

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxalloc

NUM_TYPES, NUM_FEATURES, HIDDEN = 4, 6, 6
TRAIN, TEST = 1024, 2048
LEARNING_RATE = 1e-2
CENTRE, SCALE = np.array([-0.5, np.log(1e-3)]), np.array([2.0, 1.0])  # logit gain, log decay


def draw_servers(seed, count):
    """Features [N, K, F], and workloads whose curves depend on them, not linearly, with noise.

    The network is too small to learn all of it: what it learns is a matter of what it is asked for.
    """
    rng = np.random.default_rng([seed, count])
    world = np.random.default_rng(seed)  # how features and curves hang together
    directions = world.normal(size=(3, 2, NUM_FEATURES)) / np.sqrt(NUM_FEATURES)
    features = rng.normal(size=(count, NUM_TYPES, NUM_FEATURES))
    straight, bent, other = (features @ direction.T for direction in directions)
    signal = straight + np.sin(2 * bent)
    # Where thinking hardly helps, how fast it saturates follows a law of its own, hard to learn and
    # of no account.
    useless = 1 / (1 + np.exp(2 * signal[..., 0] + 0.5))
    signal[..., 1] += useless * 2 * np.sin(3 * other[..., 0]) - useless * signal[..., 1]
    noise = rng.normal(size=signal.shape) * (0.2 + useless[..., None])
    curves = CENTRE + SCALE * (signal + noise) / 1.3
    workloads = jaxalloc.Workload.create(
        arrival_rate=rng.uniform(0.05, 0.5, count),
        mix=rng.dirichlet(np.full(NUM_TYPES, 3.0), count),
        gain=0.7 / (1 + np.exp(-curves[..., 0])),
        decay=np.exp(curves[..., 1]),
        floor=0.2,
        base_time=rng.uniform(0.05, 0.4, (count, NUM_TYPES)),
        time_per_token=rng.uniform(3e-4, 1.5e-3, (count, NUM_TYPES)),
        max_tokens=16384.0,
        accuracy_weight=rng.uniform(10, 60, count),
    )
    return jnp.asarray(features), workloads


def start_network(seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "in": jax.random.normal(keys[0], (NUM_FEATURES, HIDDEN)) / np.sqrt(NUM_FEATURES),
        "bias": jnp.zeros(HIDDEN),
        "out": 0.1 * jax.random.normal(keys[1], (HIDDEN, 2)) / np.sqrt(HIDDEN),
        "shift": jnp.zeros(2),
    }


def predict(network, features, workloads):
    """The workloads with predicted curves in the place of their own."""
    hidden = jnp.tanh(features @ network["in"] + network["bias"][None, None])
    curves = hidden @ network["out"] + network["shift"][None, None]
    curves = CENTRE + SCALE * jnp.clip(curves, -4, 4)
    return dataclasses.replace(
        workloads, gain=0.7 * jax.nn.sigmoid(curves[..., 0]), decay=jnp.exp(curves[..., 1])
    )


def parameter_error(network, features, workloads):
    """Mean squared error of logit gain and log decay, in units of their spread."""
    guess = predict(network, features, workloads)

    def curves(w):
        share = jnp.clip(w.gain / 0.7, 1e-6, 1 - 1e-6)
        return jnp.stack([jax.scipy.special.logit(share), jnp.log(w.decay)], -1) / SCALE

    return jnp.mean(jnp.square(curves(guess) - curves(workloads)))


def regret(network, features, workloads, best):
    """Mean objective lost, s, by allotting tokens on predicted curves; lanes that fail count 0."""
    guess = predict(network, features, workloads)
    first = jaxalloc.solve_batch(jax.lax.stop_gradient(guess))
    solvable = jaxalloc.mask_failed(guess, first.status)
    chosen = jaxalloc.solve_batch(solvable, initial=first.tokens)
    realized = jax.vmap(jaxalloc.objective)(workloads, chosen.tokens)
    solved = first.status == jaxalloc.Status.CONVERGED
    return jnp.mean(jnp.where(solved, best - realized, 0))


def train(loss, network, steps, judge):
    """The judge's verdict along the way."""
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    optimizer = optax.adam(schedule)

    @jax.jit
    def update(network, state):
        slope = jax.grad(loss)(network)
        changes, state = optimizer.update(slope, state)
        return optax.apply_updates(network, changes), state

    state = optimizer.init(network)
    verdicts = [float(judge(network))]
    for step in range(1, steps + 1):
        network, state = update(network, state)
        if step % max(1, steps // 20) == 0:
            verdicts.append(float(judge(network)))
    return verdicts


def run_seed(seed, steps):
    """Both ways of training from the same start."""
    features, workloads = draw_servers(seed, TRAIN)
    unseen, held_out = draw_servers(seed, TEST)
    best = jaxalloc.solve_batch(workloads)
    held_out_best = jaxalloc.solve_batch(held_out)
    assert jaxalloc.status_fractions(held_out_best)["CONVERGED"] == 1
    judge = jax.jit(
        functools.partial(regret, features=unseen, workloads=held_out, best=held_out_best.objective)
    )
    losses = {
        "parameter error": lambda n: parameter_error(n, features, workloads),
        "regret": lambda n: regret(n, features, workloads, best.objective),
    }
    rows = {}
    for name, loss in losses.items():
        rows[name] = {"held_out_regret": train(loss, start_network(seed), steps, judge)}
    return rows


def measure(quick):
    seeds, steps = (1, 20) if quick else (8, 1000)
    rows = [run_seed(seed, steps) for seed in range(seeds)]
    ends = {name: [row[name]["held_out_regret"][-1] for row in rows] for name in rows[0]}
    ratio = np.divide(ends["regret"], ends["parameter error"])
    return {
        "steps": steps,
        "train": TRAIN,
        "test": TEST,
        "num_types": NUM_TYPES,
        "regret": {name: np.mean(values) for name, values in ends.items()},
        "ratio": {"least": ratio.min(), "most": ratio.max(), "better in": np.sum(ratio < 1)},
        "seeds": rows,
    }


if __name__ == "__main__":
    common.main(__file__, measure)
