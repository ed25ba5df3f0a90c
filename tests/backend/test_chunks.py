"""Chunks: few sizes, the devices of their arrays, the settings of their caller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import as_workload
from problems import lanes, random_workloads

from jaxalloc import Requests, policies, simulate_batch, solve_batch
from jaxalloc.backend import chunks

FIELDS = random_workloads(31, 24)


@pytest.mark.parametrize("cores", [1, 2, 5, 64])
def test_chunks_are_few_even_and_of_few_sizes(cores):
    for size in range(1, 3000):
        rows = chunks._rows(size, cores, 64)
        number = -(-size // rows)
        assert 1 <= rows <= 64
        turns = -(-number // cores)  # of the busiest core
        assert rows * turns <= 1.25 * (size / cores + 2 * turns)
    assert len({chunks._rows(size, cores, 1 << 14) for size in range(1, 201)}) <= 28


def test_many_sizes_compile_few_programs(monkeypatch):
    monkeypatch.setattr(chunks, "num_cores", lambda: 2)
    traced = []
    work = jax.jit(lambda x: traced.append(x.shape) or 2 * x)
    for size in range(1, 201):
        x = np.arange(size, dtype=float)
        np.testing.assert_array_equal(chunks.in_chunks(work, x, cpu=1 << 14, accelerator=1), 2 * x)
    assert len(traced) <= 25


def test_rows_filled_up_are_idle(monkeypatch):
    monkeypatch.setattr(chunks, "num_cores", lambda: 2)
    seen = []
    work = lambda pair: seen.append(np.asarray(pair[1])) or pair[0]  # noqa: E731
    x, y = np.arange(9.0), np.ones(9)
    found = chunks.in_chunks(work, (x, y), cpu=4, accelerator=4, idle=(0.0, 5.0))
    np.testing.assert_array_equal(found, x)
    assert sorted(np.concatenate(seen).tolist()) == [1.0] * 9 + [5.0] * (len(seen) * 3 - 9)


def test_nan_lanes_of_other_threads_are_found(monkeypatch):
    monkeypatch.setattr(chunks, "num_cores", lambda: 3)
    fields = {name: value.copy() for name, value in FIELDS.items()}
    solve_batch(as_workload(fields))
    with jax.debug_nans(True):
        solve_batch(as_workload(lanes(fields, slice(0, 23))))  # filled up with what is no NaN
        fields["gain"][23] = np.nan
        with pytest.raises(FloatingPointError):
            solve_batch(as_workload(fields))


def test_every_scoped_setting_reaches_the_threads(monkeypatch):
    monkeypatch.setattr(chunks, "num_cores", lambda: 3)
    names = ("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_default_matmul_precision")
    seen = []

    def work(x):
        seen.append([jax.config.values[name] for name in names])
        return x

    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("strict"),
        jax.default_matmul_precision("float32"),
    ):
        chunks.in_chunks(work, np.ones(9, np.float32), cpu=3, accelerator=3)
    assert seen == [[False, "strict", "float32"]] * 3


def test_a_transfer_guard_lets_a_warm_call_pass():
    workloads = as_workload(FIELDS)
    requests = Requests.create(prompt=1, output=np.full((5, 4), 3))
    for _ in range(2):
        solve_batch(workloads)
        simulate_batch(requests, 20, policies.AMin())
    with jax.transfer_guard("disallow"):
        solve_batch(workloads)
        simulate_batch(requests, 20, policies.AMin())


def test_a_batch_of_symbolic_size_can_be_exported():
    (size,) = jax.export.symbolic_shape("b")
    workloads = as_workload(FIELDS)
    types = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), workloads)
    exported = jax.export.export(jax.jit(solve_batch), platforms=["cpu", "cuda"])(types)
    found, wanted = exported.call(workloads), solve_batch(workloads)
    np.testing.assert_array_equal(found.status, wanted.status)
    np.testing.assert_allclose(found.tokens, wanted.tokens, rtol=1e-9, atol=1e-6)
    assert jnp.shape(found.tokens) == (24, 6)
