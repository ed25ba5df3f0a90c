"""The same problem in the hands of general optimizers: SciPy, CVXPY, Clarabel, Moreau.

Independent oracles for the tests and opponents for the benchmarks. Each takes a batch of fields as
`problems.py` makes them and returns tokens, [N, K], in float64.

The conic form (derived here), with v = b l, y >= e^{-v}, s = √(π κ) t and d = 1 - λ Σ π t:

    minimize α Σ π A y + Σ π t + λ w / 2   with (-v, 1, y) in the exponential cone,
    |s|² <= w d, that is |(2 s, w - d)| <= w + d,   b l_min <= v <= b l_max.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.sparse

Fields = dict[str, np.ndarray]
Negated = Callable[[np.ndarray], tuple[float, np.ndarray]]


def negated_objective(lane: Fields) -> Negated:
    """-J and its gradient in v = b l for one lane; steeply rising where the queue is unstable."""
    rate, weight = float(lane["arrival_rate"]), float(lane["accuracy_weight"])
    mix, decay, cost = lane["mix"], lane["decay"], lane["time_per_token"]
    base, kappa = lane["base_time"], 1 + lane["service_cv"] ** 2
    prize = weight * mix * lane["gain"]
    per_unit = cost / decay

    def function(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        time = base + per_unit * scaled
        first = mix @ time
        idle = 1 - rate * first
        if idle <= 0:
            return 1e15 * (1 - idle), 1e15 * rate * mix * per_unit
        second = mix @ (kappa * time * time)
        left = prize * np.exp(-scaled)
        ratio = rate / idle
        price = 1 + ratio * ratio * second / 2 + ratio * kappa * time
        return left.sum() + first + ratio * second / 2, mix * per_unit * price - left

    return function


def snapped(fields: Fields, tokens: np.ndarray, share: float = 1e-6) -> np.ndarray:
    """Tokens within a share of the box's width from a bound, moved onto it.

    Interior methods stop short of the bounds; without this they would be judged by a slope that
    points out of the box.
    """
    low, high = fields["min_tokens"], fields["max_tokens"]
    near = share * (high - low)
    return np.where(tokens - low <= near, low, np.where(high - tokens <= near, high, tokens))


def lanes_of(fields: Fields) -> list[Fields]:
    """The batch as a list of single workloads, [K]."""
    return [{k: v[i] for k, v in fields.items()} for i in range(len(fields["mix"]))]


def solve_lbfgsb(fields: Fields) -> np.ndarray:
    """SciPy's L-BFGS-B with the analytic gradient, a lane after the other."""
    return np.stack([_lbfgsb(lane) for lane in lanes_of(fields)])


def solve_slsqp(fields: Fields) -> np.ndarray:
    """SciPy's SLSQP with the analytic gradient and stability as a linear constraint."""
    return np.stack([_slsqp(lane) for lane in lanes_of(fields)])


def _lbfgsb(lane: Fields) -> np.ndarray:
    decay, low, high = lane["decay"], lane["min_tokens"], lane["max_tokens"]
    found = scipy.optimize.minimize(
        negated_objective(lane),
        decay * low,
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([decay * low, decay * high], axis=1),
        options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 1000, "maxcor": 10},
    )
    return np.clip(found.x / decay, low, high)


def _slsqp(lane: Fields) -> np.ndarray:
    decay, low, high = lane["decay"], lane["min_tokens"], lane["max_tokens"]
    rate, mix = float(lane["arrival_rate"]), lane["mix"]
    slope = rate * mix * lane["time_per_token"] / decay
    room = 1 - rate * (mix @ lane["base_time"]) - 1e-9
    stable = {"type": "ineq", "fun": lambda v: room - slope @ v, "jac": lambda v: -slope}
    found = scipy.optimize.minimize(
        negated_objective(lane),
        decay * low,
        jac=True,
        method="SLSQP",
        bounds=np.stack([decay * low, decay * high], axis=1),
        constraints=[stable],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return np.clip(found.x / decay, low, high)


def solve_cvxpy(fields: Fields) -> np.ndarray:
    """CVXPY with Clarabel, the problem as a user would write it: d itself is a variable."""
    return np.stack([_cvxpy(lane) for lane in lanes_of(fields)])


def _cvxpy(lane: Fields) -> np.ndarray:
    import cvxpy

    scaled = cvxpy.Variable(len(lane["mix"]))
    idle = cvxpy.Variable()
    decay, mix, kappa = lane["decay"], lane["mix"], 1 + lane["service_cv"] ** 2
    time = lane["base_time"] + cvxpy.multiply(lane["time_per_token"] / decay, scaled)
    prize = float(lane["accuracy_weight"]) * mix * lane["gain"]
    second = cvxpy.quad_over_lin(cvxpy.multiply(np.sqrt(mix * kappa), time), idle)
    rate = float(lane["arrival_rate"])
    cost = prize @ cvxpy.exp(-scaled) + mix @ time + rate / 2 * second
    box = [scaled >= decay * lane["min_tokens"], scaled <= decay * lane["max_tokens"]]
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [*box, idle <= 1 - rate * (mix @ time)])
    problem.solve(solver=cvxpy.CLARABEL)
    return np.clip(scaled.value / decay, lane["min_tokens"], lane["max_tokens"])


def conic_structure(num_types: int) -> scipy.sparse.csr_array:
    """Where A of the conic form has entries, the same for every lane; x = (v, y, w)."""
    k = num_types
    rows, columns = zip(*_entries(k), strict=True)
    shape = (6 * k + 2, 2 * k + 1)
    return scipy.sparse.csr_array((np.arange(1.0, len(rows) + 1), (rows, columns)), shape=shape)


def _entries(k: int) -> list[tuple[int, int]]:
    """Row and column of A's entries: box, exponential cones, second-order cone."""
    entries = [(i, i) for i in range(k)] + [(k + i, i) for i in range(k)]
    for i in range(k):
        entries += [(2 * k + 3 * i, i), (2 * k + 3 * i + 2, k + i)]
    first = 5 * k
    entries += [(first, j) for j in range(k)] + [(first, 2 * k)]
    entries += [(first + 1 + j, j) for j in range(k)]
    entries += [(first + k + 1, j) for j in range(k)] + [(first + k + 1, 2 * k)]
    return entries


def conic_data(fields: Fields) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A's values in the order of `_entries`, b and q of every lane; A x + s = b, s in the cones."""
    n, k = fields["mix"].shape
    decay, mix = fields["decay"], fields["mix"]
    rate, per_unit = fields["arrival_rate"][:, None], fields["time_per_token"] / fields["decay"]
    root = 2 * np.sqrt(mix * (1 + fields["service_cv"] ** 2))
    load = rate * mix * per_unit  # -∂d/∂v
    one = np.ones((n, 1))
    pairs = np.tile(np.array([1.0, -1.0]), (n, k))
    values = [-np.ones((n, k)), np.ones((n, k)), pairs, load, -one, -root * per_unit, -load, -one]
    idle = 1 - rate * np.sum(mix * fields["base_time"], axis=1, keepdims=True)
    box = [-decay * fields["min_tokens"], decay * fields["max_tokens"]]
    exponential = np.tile(np.array([0.0, 1.0, 0.0]), (n, k))
    cone = [idle, root * fields["base_time"], -idle]
    prize = fields["accuracy_weight"][:, None] * mix * fields["gain"]
    q = np.concatenate([mix * per_unit, prize, rate / 2], axis=1)
    return (
        np.concatenate(values, axis=1),
        np.concatenate([*box, exponential, *cone], axis=1),
        q / np.max(np.abs(q), axis=1, keepdims=True),
    )


def conic_tokens(fields: Fields, x: np.ndarray) -> np.ndarray:
    """Tokens from the conic form's variables."""
    k = fields["mix"].shape[1]
    return np.clip(x[:, :k] / fields["decay"], fields["min_tokens"], fields["max_tokens"])


def solve_clarabel(fields: Fields) -> np.ndarray:
    """Clarabel itself on the conic form, without a modelling layer, a lane after the other."""
    import clarabel

    n, k = fields["mix"].shape
    values, b, q = conic_data(fields)
    structure = conic_structure(k).tocsc()
    order = structure.data.astype(int) - 1
    cones = [clarabel.NonnegativeConeT(2 * k)]
    cones += [clarabel.ExponentialConeT() for _ in range(k)] + [clarabel.SecondOrderConeT(k + 2)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    quadratic = scipy.sparse.csc_matrix((2 * k + 1, 2 * k + 1))
    found = []
    for i in range(n):
        matrix = scipy.sparse.csc_matrix(
            (values[i][order], structure.indices, structure.indptr), shape=structure.shape
        )
        solver = clarabel.DefaultSolver(quadratic, q[i], matrix, b[i], cones, settings)
        found.append(solver.solve().x)
    return conic_tokens(fields, np.array(found))


def compile_moreau(num_types: int, lanes: int) -> Callable[[Fields], np.ndarray]:
    """Moreau's batch solver for `lanes` workloads of K types: all in one call, two threads."""
    import moreau

    k = num_types
    structure = conic_structure(k)
    # Moreau orders the slack cones as zero, nonnegative, second-order, exponential.
    rows = np.concatenate([np.arange(2 * k), np.arange(5 * k, 6 * k + 2), np.arange(2 * k, 5 * k)])
    permuted = structure[rows].tocsr()
    order = permuted.data.astype(int) - 1
    solver = moreau.CompiledSolver(
        n=2 * k + 1,
        m=6 * k + 2,
        P_row_offsets=np.zeros(2 * k + 2, dtype=np.int64),
        P_col_indices=np.zeros(0, dtype=np.int64),
        A_row_offsets=permuted.indptr.astype(np.int64),
        A_col_indices=permuted.indices.astype(np.int64),
        cones=moreau.Cones(num_nonneg_cones=2 * k, so_cone_dims=[k + 2], num_exp_cones=k),
        settings=moreau.Settings(device="cpu", batch_size=lanes),
    )

    def solve(fields: Fields) -> np.ndarray:
        values, b, q = conic_data(fields)
        solver.setup(np.zeros((lanes, 0)), np.ascontiguousarray(values[:, order]))
        return conic_tokens(fields, np.asarray(solver.solve(q, b[:, rows]).x))

    return solve
