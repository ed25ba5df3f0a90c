"""What holds of every public function: any dtype, strict promotion, compiled once, said in a line.

The calls stand in `public.py`; a function that is new on the map has to be added there.
"""

import dataclasses
import functools

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from public import (
    CALLS,
    FIELDS,
    OF_ONE_WORKLOAD,
    TOKENS,
    Given,
    public_functions,
)

import jaxalloc

EVERY = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def strict_promotion():
    """Every call here, as a program that mixes no dtypes makes it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_no_function_is_forgotten():
    assert set(CALLS) == public_functions()


def floating(dtype):
    return lambda value: jnp.asarray(value, dtype)


def whole(dtype):
    """Numbers in an integer dtype where that holds them, else in float64."""

    def make(value):
        array = np.asarray(value)
        same = array.astype(dtype)
        return same if np.array_equal(same, array) else array

    return make


def lists(value):
    """Python's own numbers."""
    return np.asarray(value).tolist()


@functools.cache
def in_float64(name):
    return jax.tree.leaves(CALLS[name](Given()))


def compare(name, given, rtol):
    """The answer is that of float64, relative to its largest number."""
    for wanted, found in zip(in_float64(name), jax.tree.leaves(CALLS[name](given)), strict=True):
        scale = np.max(np.abs(np.where(np.isfinite(wanted), wanted, 0)), initial=0)
        np.testing.assert_allclose(np.asarray(found, float), wanted, rtol, rtol * scale)


@EVERY
def test_a_narrow_float_costs_no_more_than_the_precision_of_float32(name):
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        compare(name, Given(real=floating(dtype)), 5e-3)


@EVERY
def test_a_whole_number_is_one_whatever_its_type(name):
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64):
        compare(name, Given(real=whole(dtype), whole=whole(dtype)), 1e-12)
    compare(name, Given(real=lists, whole=lists), 1e-12)


LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"


@pytest.fixture
def compilations():
    """How many computations were compiled since the test began."""
    seen = []

    def listen(event, duration, **_):
        if event == LOWERED:
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@EVERY
def test_the_same_shapes_are_compiled_once(name, compilations):
    in_float64(name)
    before = len(compilations)
    jax.block_until_ready(CALLS[name](Given()))
    assert len(compilations) == before


def test_compilations_are_counted(compilations):
    for factor in (2.0, 3.0):
        jax.jit(lambda x, factor=factor: factor * x)(1.0)
    assert len(compilations) == 2


@EVERY
def test_a_healthy_answer_passes_the_check_for_nan(name):
    with jax.debug_nans(True):
        CALLS[name](Given())


# Of most functions a test beside theirs compares the derivative; these have none.
WITHOUT_DERIVATIVE = {
    "accuracy_intervals",
    "fit_service_time",  # robust
    "round_tokens",
    "rounding_loss",
    "simulate_fifo",
}


def total(answer):
    leaves = map(jnp.asarray, jax.tree.leaves(answer))
    return sum(jnp.sum(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))


@pytest.mark.parametrize("name", sorted(WITHOUT_DERIVATIVE))
def test_a_function_without_a_derivative_says_so(name):
    def value(one):
        def real(x):
            return one * np.asarray(x, float)

        return total(CALLS[name](Given(real=real, whole=real)))

    for derivative in (jax.grad, jax.jacfwd):
        with pytest.raises(TypeError, match=r"has no derivative.*stop_gradient"):
            derivative(value)(1.0)
    # Beside a gradient it is a number like any other.
    slope, aside = jax.grad(lambda one: (one**2, value(one)), has_aux=True)(1.0)
    assert slope == 2
    np.testing.assert_allclose(aside, total(CALLS[name](Given())), rtol=1e-6)


@pytest.mark.parametrize("name", OF_ONE_WORKLOAD)
def test_a_batch_is_refused_by_the_name_of_its_field(name):
    for field in FIELDS:

        class Batch(Given):
            @property
            def workload(self, field=field):
                one = super().workload
                return dataclasses.replace(one, **{field: np.stack([getattr(one, field)] * 3)})

        # Where the mix has one axis, a field of another length is what there is to name.
        with pytest.raises(ValueError, match=rf"^{field} has shape \(3.*jax.vmap or solve_batch"):
            CALLS[name](Batch())


@pytest.mark.parametrize("name", ["mean_accuracy", "solve", "simulate_fifo", "wait_quantile"])
@pytest.mark.parametrize("tokens", [512.0, [512.0], [512.0] * 3, [TOKENS] * 2])
def test_tokens_of_another_shape_are_refused(name, tokens):
    class Wrong(Given):
        @property
        def tokens(self):
            return tokens

    with pytest.raises(ValueError, match=r"^(tokens|initial) has shape .*give one number a type"):
        CALLS[name](Wrong())


@pytest.mark.parametrize(
    ("call", "error", "line"),
    [
        (
            lambda w: jaxalloc.round_tokens(w, jnp.ones(2)),
            TypeError,
            "allocation is of type ArrayImpl: give what solve(workload) returns",
        ),
        (
            lambda w: jaxalloc.system_time_quantile(w, TOKENS, 95),
            ValueError,
            "q = 95 must be between 0 and 1: give 0.95",
        ),
        (
            lambda w: jaxalloc.wait_quantile(w, TOKENS, [0.5, 0.9]),
            ValueError,
            "q has shape (2,): give one number, or use jax.vmap",
        ),
        (
            lambda w: jaxalloc.solve_for_accuracy(w, "high"),
            ValueError,
            "accuracy = 'high' is not a number: give numbers or arrays of them",
        ),
        (
            lambda w: jaxalloc.frontier(w, 4.0),
            ValueError,
            "weights has shape (): give accuracy weights (W,)",
        ),
        (
            lambda w: jaxalloc.mean_wait(vars(w), TOKENS),
            TypeError,
            "workload is of type dict: give a jaxalloc.Workload, such as Workload.create makes",
        ),
        (
            lambda w: jaxalloc.utilization(dataclasses.replace(w, gain=np.ones(3)), TOKENS),
            ValueError,
            "gain has shape (3,) where another field has (2,): "
            "give one number a type, or a scalar for all",
        ),
        (
            lambda w: jaxalloc.solve(dataclasses.replace(w, mix=None)),
            ValueError,
            "mix = None is not a number: give numbers or arrays of them",
        ),
        (
            lambda w: jaxalloc.simulate_fifo(0, w, TOKENS),
            TypeError,
            "key = 0 is not a random key: give jax.random.key(0)",
        ),
        (
            lambda w: jaxalloc.solve_uncertain(7, w, jaxalloc.exactly_known(w)),
            TypeError,
            "key = 7 is not a random key: give jax.random.key(7)",
        ),
    ],
)
def test_anything_else_is_refused_in_one_line(call, error, line):
    with pytest.raises(error) as caught:
        call(Given().workload)
    assert str(caught.value) == line
