"""The layer in a training loop: what is trained through the solver under `benchmarks` learns."""

import itertools

import allocation_decision_focused as benchmark
import jax


def test_training_through_the_solver_lowers_the_regret():
    features, workloads = benchmark.draw_servers(0, 256)

    @jax.jit
    @jax.value_and_grad
    def loss(network):
        return benchmark.regret(network, features, workloads, 0.0)

    network, values = benchmark.start_network(0), []
    with jax.numpy_rank_promotion("allow"):
        for _ in range(5):
            value, slope = loss(network)
            network = jax.tree.map(lambda x, dx: x - 0.02 * dx, network, slope)
            values.append(float(value))
    assert all(after < before for before, after in itertools.pairwise(values))
