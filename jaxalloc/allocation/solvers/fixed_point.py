"""The paper's projected fixed-point iteration, and the certificate of its contraction.

At the optimum every free type balances up = down, that is
`l_k = (1/b_k) ln(α A_k b_k / (c_k m_k(l)))` (Ozbas & Bastopcu, 2026, arXiv 2601.10274); iterate the
right-hand side, clipped to the token box. The price m_k = G + g κ_k t_k contains the type's own
service time. With `exact_own_time` only (g, G) are taken from the last iterate, and each type's own
equation is solved exactly, which converges more often (derived here).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxalloc.allocation.model.checks import one_workload
from jaxalloc.allocation.model.mg1 import queue, service_time, variability
from jaxalloc.allocation.model.objective import (
    Point,
    distance,
    evaluate,
    own_imbalance,
    shadow_price,
)
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.solvers.solver import Solver, State, move

_KEPT_IDLE = 1e-6  # of the idle fraction d: the map is left alone wherever it stays stable
_MAX_OWN_STEPS = 60


@dataclasses.dataclass(frozen=True)
class FixedPoint(Solver):
    """Projected fixed point: cheap steps, linear convergence, and only under light load.

    It converges for certain where `contraction_bound(workload) < 1`; elsewhere it may cycle, and
    then the status says MAX_STEPS. A step that would leave the stable set is shortened.

    Attributes:
      max_steps, tolerance: as every `Solver` has them.
      damping: share of the way to the new tokens that a step goes, in (0, 1].
      exact_own_time: solve each type's own service time exactly; False is the plain map.
    """

    max_steps: int = 1000
    damping: float = 1.0
    exact_own_time: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping = {self.damping} must be in (0, 1]")

    def init(self, workload: Workload, start: Point) -> State:
        """Begin at `start`, which is stable."""
        return State(start, distance(workload, start), jnp.array(False))

    def step(self, workload: Workload, state: State) -> State:
        """Apply the map once."""
        point = state.point
        if self.exact_own_time:
            target = _own_optimum(workload, point.load_price, point.base_price)
        else:
            target = point.tokens + point.imbalance / workload.decay
        target = jnp.clip(target, workload.min_tokens, workload.max_tokens)
        if self.damping < 1:
            target = point.tokens + self.damping * (target - point.tokens)
        target = move(workload, point, target, kept_idle=_KEPT_IDLE)
        end = evaluate(workload, target, point.most_idle)
        stalled = jnp.all(end.tokens == point.tokens)
        return State(end, distance(workload, end), stalled)


def _own_optimum(workload: Workload, load_price: Scalar, base_price: Scalar) -> Tokens:
    """Every type's optimum at given g and G: the root of ln(α A b / (c (G + g κ t(l)))) = b l.

    The equation is convex and falling in l, so Newton from min_tokens rises monotonically to the
    root (derived here). A type whose imbalance is negative at min_tokens stays there.
    """
    push = load_price * variability(workload) * workload.time_per_token

    def unfinished(carry: tuple[Tokens, Flag, Array]) -> Flag:
        return carry[1] & (carry[2] < _MAX_OWN_STEPS)

    def rise(carry: tuple[Tokens, Flag, Array]) -> tuple[Tokens, Flag, Array]:
        tokens, _, count = carry
        price = shadow_price(workload, tokens, load_price, base_price)
        step = own_imbalance(workload, tokens, price) / (workload.decay + push / price)
        risen = jnp.clip(tokens + jnp.maximum(step, 0), tokens, workload.max_tokens)
        return risen, jnp.any(risen > tokens), count + 1

    start = (workload.min_tokens, jnp.array(True), jnp.int32(0))
    return jax.lax.while_loop(unfinished, rise, start)[0]


def contraction_bound(workload: Workload) -> Scalar:
    """Factor by which the plain map contracts in the largest norm, at most; inf if not stable.

    `q = max_k (1/b_k) [κ_k c_k g + 2 g C1 + g² C2]` with g = λ/d, C1 = Σ π c and C2 = Σ π κ c t,
    all at max_tokens (derived here). If q < 1 the fixed point converges from anywhere, at rate q or
    better; the condition is sufficient, and often not met where the iteration still converges.

    >>> import jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.01, mix=[1.0], gain=0.5, decay=1e-3, floor=0.0, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=1000.0, accuracy_weight=20.0)
    >>> print(f"{jaxalloc.contraction_bound(workload):.4f}")
    0.0304
    """
    workload = one_workload(workload)
    time = service_time(workload, workload.max_tokens)
    kappa = variability(workload)
    idle = queue(workload, workload.max_tokens).idle
    g = workload.arrival_rate / idle
    seconds = workload.mix * workload.time_per_token
    shared = 2 * g * jnp.sum(seconds) + jnp.square(g) * jnp.sum(seconds * kappa * time)
    factor = jnp.max((g * kappa * workload.time_per_token + shared) / workload.decay)
    return jnp.where(idle > 0, factor, jnp.inf)
