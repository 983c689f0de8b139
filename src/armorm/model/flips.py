"""Smallest changes of the weights that turn a preference around, exactly.

With d the difference of two responses' rewards and c the coefficients, the margin is ``c . d``.

*One coefficient.* The margin is 0 at ``c_i + change_i`` with ``change_i = -margin / d_i``.

*All coefficients.* The nearest ones at which it is 0, in the Euclidean norm, are
``c - margin d / (d . d)``.

*Steering.* Coefficients are ``T(s) (t w + (1 - t) f * g) + b``, so the margin is ``q . f + e`` in
the factors f, with ``q = (1 - t) g * T(s)' d`` and e of everything else.  The nearest factors that
are not negative solve a quadratic program of one equation, whose solution is ``max(f - y q, 0)``
for a number y: the root of a function that is piecewise linear and falls, which is found exactly
(:func:`nearest_on_plane`).  Weights w that replace the gate are changed in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from armorm.model.answers import Rewards, coefficients_of, weigh_rewards
from armorm.model.layout import Heads
from armorm.model.steering import Steering

OVERSHOOTS = (0.01, 0.1, 1.0)
"""Shares of the margin by which the steering that is shown goes beyond the tie; the first is taken
that reverses the order in the numbers that scores are computed in."""

Vector = Float[np.ndarray, " k"]


@dataclass(frozen=True, slots=True)
class CoefficientFlip:
    """Change of a single coefficient that turns a preference around.

    Any more than ``change`` reverses it; ``Steering(add={objective: change})`` applies it.

    Attributes:
        objective: Name of the objective.
        coefficient: Coefficient now.
        change: Change at which the two responses tie.
        feasible: True if the coefficient keeps its sign, or reaches 0: what counts for a response
            is not turned against it.  A coefficient of 0 may rise.
    """

    objective: str
    coefficient: float
    change: float
    feasible: bool

    @property
    def flipped(self) -> float:
        """Coefficient at which the two responses tie."""
        return self.coefficient + self.change

    @property
    def relative(self) -> float | None:
        """Size of the change as a share of the coefficient; ``None`` for a coefficient of 0."""
        return abs(self.change / self.coefficient) if self.coefficient else None

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {**asdict(self), "flipped": self.flipped, "relative": self.relative}


@dataclass(frozen=True, slots=True)
class SteeringFlip:
    """Smallest change of the steering that turns a preference around.

    Attributes:
        knob: Setting that changes: ``factors``, or ``weights`` where these replace the gate.
        changes: Values of the setting at the tie, of the objectives where they change.
        distance: Euclidean norm of the change, over all objectives.
        steering: Steering a little beyond the tie, under which the model prefers the other
            response.
    """

    knob: Literal["factors", "weights"]
    changes: Mapping[str, float]
    distance: float
    steering: Steering

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {
            "knob": self.knob,
            "changes": dict(self.changes),
            "distance": self.distance,
            "steering": self.steering.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Flips:
    """Smallest changes of the weights that turn a preference around.

    Attributes:
        coefficients: Change of each single coefficient that would, the smallest first; objectives
            that rate both responses alike are not among them.
        nearest: Changes of all coefficients together that do so with the least Euclidean norm.
        distance: That norm.
        steering: Smallest change of the steering; ``None`` if there is none.

    Example:
        >>> from armorm import RewardModel
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> prompt, a, b = "What is 2 plus 3?", "2 plus 3 is 5.", "2 plus 3 is 6."
        >>> comparison = model.compare(prompt, a, b)
        >>> steering = comparison.flips.steering.steering
        >>> model.steer(steering).compare(prompt, a, b).preferred != comparison.preferred
        True
    """

    coefficients: tuple[CoefficientFlip, ...]
    nearest: Mapping[str, float]
    distance: float
    steering: SteeringFlip | None

    @property
    def smallest(self) -> CoefficientFlip | None:
        """Smallest feasible change of one coefficient."""
        return next((flip for flip in self.coefficients if flip.feasible), None)

    @property
    def smallest_relative(self) -> CoefficientFlip | None:
        """Feasible change of one coefficient that is the smallest share of the coefficient."""
        feasible = [flip for flip in self.coefficients if flip.feasible and flip.coefficient]
        return min(feasible, key=lambda flip: abs(flip.change / flip.coefficient), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        smallest, relative = self.smallest, self.smallest_relative
        return {
            "coefficients": [flip.as_dict() for flip in self.coefficients],
            "smallest": None if smallest is None else smallest.objective,
            "smallest_relative": None if relative is None else relative.objective,
            "nearest": dict(self.nearest),
            "distance": self.distance,
            "steering": None if self.steering is None else self.steering.as_dict(),
        }


def flips_of(rewards: Rewards, heads: Heads) -> Flips | None:
    """Return what would turn the preference between the first two responses around.

    Args:
        rewards: Scores of two responses to one prompt, which the model of these heads gave.
        heads: Its heads.

    Returns:
        ``None`` for a tie, also one by rounding.
    """
    difference = (rewards.rewards[0].double() - rewards.rewards[1].double()).numpy()
    coefficients = rewards.coefficients[0].double().numpy()
    margin = float(coefficients @ difference)
    if margin * float(rewards.score[0].double() - rewards.score[1].double()) <= 0:
        return None
    nearest = -margin * difference / (difference @ difference)
    names = heads.objectives.names
    return Flips(
        coefficients=_coefficient_flips(names, coefficients, difference, margin),
        nearest=dict(zip(names, nearest.tolist(), strict=True)),
        distance=float(np.linalg.norm(nearest)),
        steering=_steering_flip(rewards, heads, difference),
    )


def _coefficient_flips(
    names: tuple[str, ...], coefficients: Vector, difference: Vector, margin: float
) -> tuple[CoefficientFlip, ...]:
    flips = []
    for name, old, d in zip(names, coefficients.tolist(), difference.tolist(), strict=True):
        change = -margin / d if d else math.inf
        if math.isfinite(change):
            feasible = old * (old + change) >= 0 if old else change > 0
            flips.append(CoefficientFlip(name, old, change, feasible))
    return tuple(sorted(flips, key=lambda flip: abs(flip.change)))


def _steering_flip(rewards: Rewards, heads: Heads, difference: Vector) -> SteeringFlip | None:
    names, steering = heads.objectives.names, rewards.steering or Steering()
    problem = _Problem.of(rewards, heads, steering, difference)
    tie = problem.solve(0.0)
    for share in OVERSHOOTS:
        beyond = problem.solve(share)
        if tie is None or beyond is None:
            return None
        changed = {
            name: float(f"{value:.6g}")
            for name, value in zip(names, beyond.tolist(), strict=True)
            if value != problem.default
        }
        flipped = Steering.from_dict({**steering.as_dict(), problem.knob: changed})
        if _margin(rewards, heads, flipped) * _margin(rewards, heads, steering) < 0:
            moved = zip(names, tie.tolist(), problem.start.tolist(), strict=True)
            return SteeringFlip(
                knob=problem.knob,
                changes={name: new for name, new, old in moved if new != old},
                distance=float(np.linalg.norm(tie - problem.start)),
                steering=flipped,
            )
    return None


def _margin(rewards: Rewards, heads: Heads, steering: Steering) -> float:
    """Return the margin of the first two responses under a steering, as a model computes it."""
    coefficients = coefficients_of(heads.compile(steering, warn=False), rewards.gating[:1])
    scores = weigh_rewards(coefficients, rewards.rewards[:2])[1].tolist()
    return float(scores[0] - scores[1])


@dataclass(frozen=True, slots=True)
class _Problem:
    """The size of the margin as a linear function of a setting: ``normal . x + constant``.

    Attributes:
        knob: The setting.
        default: Its value for objectives that are not named.
        start: Its values now.
        normal: See above; the margin now is positive.
        constant: See above.
    """

    knob: Literal["factors", "weights"]
    default: float
    start: Vector
    normal: Vector
    constant: float

    @classmethod
    def of(cls, rewards: Rewards, heads: Heads, steering: Steering, difference: Vector) -> _Problem:
        gating = rewards.gating[0].double().numpy()
        margin = float(rewards.coefficients[0].double().numpy() @ difference)
        debias = heads.compile(Steering(debiasing=steering.debiasing), warn=False)
        debiased = debias.matrix.T.astype(np.float64) @ difference
        gated = steering.weights is None or steering.mixture < 1
        knob: Literal["factors", "weights"] = "factors" if gated else "weights"
        default = 1.0 if gated else 0.0
        values: Mapping[str, float] = getattr(steering, knob)
        start = np.array([values.get(name, default) for name in heads.objectives.names])
        normal = debiased
        if gated:
            normal = gating * debiased * (1.0 if steering.weights is None else 1 - steering.mixture)
        constant = margin - float(normal @ start)
        if gated and steering.renormalise:
            # The gate's part is divided by g . f / total, which is positive: multiplied by that,
            # the margin keeps its sign, and is linear again.
            left = gating @ start / gating.sum()
            constant = margin - float(normal @ start) / left
            normal, constant = normal + constant * gating / gating.sum(), 0.0
        sign = math.copysign(1.0, margin)
        return cls(knob, default, start, sign * normal, sign * constant)

    def solve(self, overshoot: float) -> Vector | None:
        """Return the nearest values at which the other response is ahead by a share of the margin.

        Where values that are not negative cannot bring it so far, half of what they can is aimed
        at.

        Args:
            overshoot: The share; 0 is the tie.

        Returns:
            ``None`` if no values that are not negative reverse the order.
        """
        lower = np.minimum(self.start, 0.0)
        reach = math.inf if (self.normal < 0).any() else -(self.normal @ lower + self.constant)
        if reach <= 0:
            return None
        ahead = min(overshoot * float(self.normal @ self.start + self.constant), reach / 2)
        return nearest_on_plane(self.start, lower, self.normal, -ahead - self.constant)


def nearest_on_plane(start: Vector, lower: Vector, normal: Vector, height: float) -> Vector | None:
    """Return the point x >= lower nearest to ``start`` at which ``normal . x`` falls to a height.

    It is ``max(start - y normal, lower)`` for the y >= 0 at which the height is right.  Between the
    points where a coordinate reaches its bound, the height falls linearly in y.

    Args:
        start: The point to be near to, not below ``lower``.
        lower: Least value of each coordinate.
        normal: Normal of the plane.
        height: Value of ``normal . x`` there, at most its value at ``start``.

    Returns:
        ``None`` if no such point exists.

    Example:
        >>> nearest_on_plane(np.ones(2), np.zeros(2), np.array([2.0, -1.0]), 0.0).round(6)
        array([0.6, 1.2])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.where(normal > 0, (start - lower) / normal, np.inf)

    def point(y: float) -> Vector:
        found: Vector = np.maximum(start - y * normal, lower)
        return found

    y = 0.0
    for bound in np.unique([*bounds, np.inf]):
        rate = float(np.square(normal[bounds > y]).sum())
        if rate == 0:
            return None
        root = y + (float(normal @ point(y)) - height) / rate
        if root <= bound:
            return point(root)
        y = float(bound)
    return None
