"""`solve_uncertain`: the delta method, sampling, regret, and files that carry covariances."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxalloc
from jaxalloc.workloads import files
from jaxalloc.workloads.uncertainty import to_covariances

# Parameters known to 1 %: so well that the two methods must agree.
RELATIVE = 0.01
GPQA = 2  # the task with a floor


@pytest.fixture(scope="module")
def workload():
    return files.load("qwen3-8b").workload


@pytest.fixture(scope="module")
def covariances(workload):
    w = workload
    curve = jnp.stack([w.gain, w.decay, 0.5 * jnp.ones_like(w.floor)], axis=-1) * RELATIVE
    pattern = jnp.array([[1.0, -0.6, 0.0], [-0.6, 1.0, 0.0], [0.0, 0.0, 0.0]])
    service = jnp.stack([w.base_time, w.time_per_token], axis=-1) * RELATIVE
    return jaxalloc.exactly_known(w)._replace(
        curve=curve[:, :, None] * curve[:, None, :] * pattern[None],
        service=service[:, :, None] * service[:, None, :] * jnp.eye(2)[None],
        mix=(jnp.diag(w.mix) - jnp.outer(w.mix, w.mix)) / 40_000,
        arrival_rate=(w.arrival_rate * RELATIVE) ** 2,
    )


@pytest.fixture(scope="module")
def decision(workload, covariances):
    return jaxalloc.solve_uncertain(jax.random.key(0), workload, covariances, samples=4000)


def test_both_methods_agree_where_the_problem_is_nearly_linear(decision):
    for name in decision.values._fields:
        delta = np.asarray(getattr(decision.standard_error, name))
        ends = getattr(decision.low, name), getattr(decision.high, name)
        sampled = (np.asarray(ends[1]) - np.asarray(ends[0])) / (2 * 1.959964)
        np.testing.assert_allclose(sampled, delta, rtol=0.1)


def test_the_delta_method_is_that_of_differences(workload, covariances, decision):
    """Var = gᵀ Σ g with g from solves at moved parameters, for the curve of one task alone."""
    only = jaxalloc.exactly_known(workload)._replace(
        curve=jnp.zeros_like(covariances.curve).at[GPQA].set(covariances.curve[GPQA])
    )
    alone = jaxalloc.solve_uncertain(jax.random.key(0), workload, only, samples=4000)
    slopes = []
    for name in ("gain", "decay", "floor"):
        value = np.asarray(getattr(workload, name))
        step = np.zeros(5)
        step[GPQA] = 1e-5 * value[GPQA]
        up, down = (
            jaxalloc.solve(dataclasses.replace(workload, **{name: jnp.asarray(value + s)})).tokens
            for s in (step, -step)
        )
        slopes.append((np.asarray(up) - np.asarray(down)) / (2 * step[GPQA]))
    slopes = np.array(slopes)
    variance = np.einsum("it,ij,jt->t", slopes, np.asarray(covariances.curve[GPQA]), slopes)
    np.testing.assert_allclose(alone.standard_error.tokens, np.sqrt(variance), rtol=1e-4)
    assert float(alone.regret_by_task[GPQA]) == pytest.approx(float(alone.regret), rel=0.15)
    assert np.argmax(alone.regret_by_task) == GPQA
    assert float(alone.regret) < float(decision.regret)


def test_regret_is_the_quadratic_form_of_the_errors(workload, covariances, decision):
    """E[regret] = ½ tr(Lᵀ (-∇²J) L Σ), L the derivative of the tokens."""
    report = jax.jit(jaxalloc.sensitivity)(workload)
    hessian = -jax.hessian(lambda x: jaxalloc.objective(workload, x))(report.allocation.tokens)
    tokens = report.tokens
    spread = np.asarray(tokens.arrival_rate)[:, None] * np.sqrt(covariances.arrival_rate)
    total = spread @ spread.T + np.asarray(tokens.mix @ covariances.mix @ tokens.mix.T)
    blocks = (
        (("gain", "decay", "floor"), covariances.curve),
        (
            ("base_time", "time_per_token"),
            covariances.service,
        ),
    )
    for names, block in blocks:
        own = np.stack([np.asarray(getattr(tokens, name)) for name in names], axis=-1)
        total = total + np.einsum("aki,kij,bkj->ab", own, np.asarray(block), own)
    expected = np.trace(np.asarray(hessian) @ total) / 2
    assert float(decision.regret) == pytest.approx(expected, rel=0.1)
    assert float(decision.regret_high) > float(decision.regret)


def test_what_is_known_exactly_has_no_regret(workload):
    known = jaxalloc.exactly_known(workload)
    sure = jaxalloc.solve_uncertain(jax.random.key(0), workload, known, samples=4000)
    assert float(sure.regret_high) < 1e-9
    assert float(sure.solved) == 1
    np.testing.assert_allclose(sure.low.tokens, sure.values.tokens, rtol=1e-6)
    np.testing.assert_array_equal(sure.standard_error.tokens, 0)


def test_parameters_that_do_nothing_have_no_regret_of_their_own(decision):
    by = decision.regret_by_parameter
    np.testing.assert_array_equal(by.max_tokens, 0)
    assert np.all(np.asarray(by.decay) > 0)
    assert np.all(np.asarray(by.time_per_token) > 0)
    assert float(by.arrival_rate) > 0
    np.testing.assert_allclose(by.floor, 0, atol=1e-9)


def test_a_file_carries_its_covariances(tmp_path):
    file = files.load("qwen3-8b")
    covariance = [[4e-4, -1e-8, -1e-5], [-1e-8, 1e-12, 0.0], [-1e-5, 0.0, 1e-4]]
    service = [[1e-4, -1e-9], [-1e-9, 1e-12]]
    known = {"covariance": covariance, "service_covariance": service, "service_cv_se": 0.01}
    task = dataclasses.replace(file.task[0], **known)
    other = dataclasses.replace(file.task[1], gain_se=0.02, base_time_se=0.03)
    tasks = [dataclasses.replace(own, mix_se=0.004) for own in (task, other, *file.task[2:])]
    file = dataclasses.replace(file, task=tasks, arrival_rate_se=0.002)
    files.save(file, tmp_path / "a.toml")
    found = to_covariances(files.load(tmp_path / "a.toml"))
    np.testing.assert_allclose(found.curve[0], covariance)
    np.testing.assert_allclose(found.curve[1], np.diag([4e-4, 0, 0]), atol=1e-18)
    np.testing.assert_allclose(found.service[0], service)
    np.testing.assert_allclose(found.service[1], np.diag([9e-4, 0]), atol=1e-18)
    np.testing.assert_allclose(np.sqrt(np.diag(found.mix)), 0.004)
    np.testing.assert_allclose(found.mix.sum(axis=0), 0, atol=1e-18)
    assert float(found.arrival_rate) == pytest.approx(4e-6)
    assert float(found.service_cv[0]) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("service_covariance = [[1.0]]", "service_covariance = [[1.0]] is of another"),
        ("service_covariance = [[1.0, 2.0], [2.0, 1.0]]", "a correlation above 1"),
        ("service_covariance = 3", "give 2 rows of 2 numbers"),
    ],
)
def test_an_impossible_service_covariance_is_named(tmp_path, text, named):
    path = tmp_path / "a.toml"
    path.write_text(
        files.builtin_text("qwen3-8b").replace("decay = 2.66e-3", f"decay = 2.66e-3\n{text}")
    )
    with pytest.raises(ValueError, match="GSM8K") as caught:
        files.load(path)
    assert named in str(caught.value)
