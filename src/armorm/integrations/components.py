"""Reward components for trainers that normalise each one within a prompt's group (GDPO).

GDPO turns a component x of one group into ``(x - mean) / (deviation + epsilon)`` and adds the
results.  Per prompt the coefficients c of the objectives are constant, so they cancel from a
component per objective: ``z(c_k r_k) = sign(c_k) z(r_k)``.  They survive inside a component.  Since
the deviation of each objective must survive too, the only component that orders a group as the
score does is the score itself, in any unit: ``sum_k c_k (r_k - mean r_k) / s`` with one s for the
whole group.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from armorm.errors import InputError
from armorm.model import Rewards

ComponentKind = Literal["contributions", "rewards", "gate_weighted", "whitened"]
"""Kind of the components of a group.

``contributions`` and ``rewards`` are one component per objective
(:data:`armorm.model.PerObjective`), whose coefficients GDPO erases.  ``gate_weighted`` is one
component, the score in deviations of its group.  ``whitened`` is the same of contributions that
were decorrelated first, so that objectives that say the same do not add up.
"""

GROUP_KINDS: tuple[ComponentKind, ...] = ("gate_weighted", "whitened")
"""Kinds that are computed from the whole group."""

# Scores of a group that differ by less, relative to the contributions' size, differ by rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class GroupComponents:
    """Components of n responses for a trainer, and the parts they are made of.

    Attributes:
        optimised: Components that the trainer is given, by name. Each of shape (n,).
        parts: Parts of the components by objective, to be logged; those of a single component sum
            to it. Each of shape (n,).
    """

    optimised: Mapping[str, Float[Tensor, " n"]]
    parts: Mapping[str, Float[Tensor, " n"]]

    def shares(self) -> dict[str, float]:
        """Return each objective's share of the variance of the single component.

        It is the covariance of part and component, divided by the component's variance: the shares
        sum to 1, and an objective that works against the component has a negative one.  All are 0
        where the component is constant.

        Raises:
            InputError: There are several components.
        """
        if len(self.optimised) != 1:
            raise InputError(
                "components", len(self.optimised), "shares are of a single component", ""
            )
        (component,) = self.optimised.values()
        variance = float(component.square().mean()) or 1.0
        return {
            name: float((part * component).mean()) / variance for name, part in self.parts.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {
            "optimised": {name: values.tolist() for name, values in self.optimised.items()},
            "parts": {name: values.tolist() for name, values in self.parts.items()},
        }


def group_components(
    rewards: Rewards, groups: Sequence[Hashable], kind: ComponentKind = "gate_weighted"
) -> GroupComponents:
    """Return reward components of responses, some to each prompt.

    Args:
        rewards: Scores of n responses.
        groups: For each response, its group: anything equal for the responses to one prompt.
        kind: See :data:`ComponentKind`. ``gate_weighted`` and ``whitened`` have mean 0 and
            deviation 1 in every group, and 0 throughout where all scores of a group are equal, as
            in a group of one.  The correlations that ``whitened`` removes are those within the
            groups, over all of them, shrunk towards none as far as their sampling error asks
            (Schäfer and Strimmer 2005): few responses are hardly decorrelated.  It may pay for
            less of an objective whose coefficient is positive.  Where the scores have a price
            (``Rewards.pessimistic``) it is one part more, named ``risk``.

    Raises:
        NonFiniteError: A response has no score.
        InputError: There is not one group per response.

    Example:
        >>> from armorm import RewardModel
        >>> from armorm.integrations import group_components
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> rewards = model.score_responses("What is 2 plus 3?", ["5.", "No idea.", "It is 5."])
        >>> found = group_components(rewards, [0, 0, 0])
        >>> component = found.optimised["gate_weighted"]
        >>> bool((component.argsort() == rewards.score.argsort()).all())
        True
        >>> round(float(component.std()), 6), round(sum(found.shares().values()), 6)
        (1.0, 1.0)
    """
    if len(groups) != len(rewards):
        raise InputError(
            "groups", len(groups), f"there are {len(rewards)} responses", "Give one for each."
        )
    rewards.check_finite()
    if kind in ("contributions", "rewards"):
        table = getattr(rewards, kind).unbind(dim=1)
        columns = dict(zip(rewards.objectives, table, strict=True))
        return GroupComponents(columns, columns)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group = torch.tensor([numbers[one] for one in groups], dtype=torch.long)
    size = rewards.contributions.double().abs().sum(dim=1)
    parts = _centred(rewards.contributions.double(), group)
    if kind == "whitened":
        parts = _whitened(parts, _centred(rewards.rewards.double(), group), rewards, len(numbers))
    names = rewards.objectives
    if rewards.pessimistic is not None:
        price = (rewards.pessimistic.double() - rewards.score.double())[:, None]
        parts, names = torch.cat([parts, _centred(price, group)], dim=1), (*names, "risk")
    parts = _in_deviations(parts, group, size)
    by_name = dict(zip(names, parts.unbind(dim=1), strict=True))
    return GroupComponents({kind: parts.sum(dim=1)}, by_name)


def _group_means(values: Float[Tensor, "n k"], group: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """Return, in every row, the means of its group."""
    counts = torch.bincount(group).to(values)
    sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, group, values)
    means: Tensor = (sums / counts[:, None])[group]
    return means


def _centred(values: Float[Tensor, "n k"], group: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
    return values - _group_means(values, group)


def _in_deviations(
    parts: Float[Tensor, "n k"], group: Int[Tensor, " n"], size: Float[Tensor, " n"]
) -> Float[Tensor, "n k"]:
    """Divide the parts by the deviation of their sum within the group; ties become 0."""
    counts = torch.bincount(group)[group].to(parts)
    squares = _group_means(parts.sum(dim=1, keepdim=True).square(), group)[:, 0]
    deviation = (squares * counts / (counts - 1).clamp(min=1)).sqrt()
    ties = deviation <= ROUNDING * _group_means(size[:, None], group)[:, 0]
    scale = torch.where(ties, 0.0, 1.0 / torch.where(ties, 1.0, deviation))
    return parts * scale[:, None]


def _whitened(
    parts: Float[Tensor, "n k"],
    deviations: Float[Tensor, "n k"],
    rewards: Rewards,
    groups: int,
) -> Float[Tensor, "n k"]:
    """Decorrelate the contributions, each as close as can be to itself (ZCA-cor; Kessy 2018).

    Args:
        parts: Contributions, less their group's mean.
        deviations: Unit rewards, less their group's mean.
        rewards: Coefficients of the responses.
        groups: Number of groups.
    """
    freedom = len(deviations) - groups
    if freedom < 2:
        return parts
    spread = (deviations.square().sum(dim=0) / freedom).sqrt()
    unit = torch.where(spread > 0, deviations / spread.clamp(min=torch.finfo().tiny), 0.0)
    correlation = _shrunk_correlation(unit, freedom)
    values, vectors = torch.linalg.eigh(correlation)
    # A direction without variance has no inverse root, and nothing lies in it.
    roots = torch.where(values > 1e-10, values.clamp(min=1e-10).rsqrt(), 0.0)
    whitened: Tensor = unit @ (vectors * roots) @ vectors.T
    return rewards.coefficients.double() * spread * whitened


def _shrunk_correlation(unit: Float[Tensor, "n k"], freedom: int) -> Float[Tensor, "k k"]:
    """Return (1 - t) R + t I for columns of variance 1, with the t of least expected error."""
    n, k = unit.shape
    correlation = unit.T @ unit / freedom
    products = unit.square().T @ unit.square() / n - (unit.T @ unit / n).square()
    errors = products * n / freedom**2
    apart = ~torch.eye(k, dtype=torch.bool)
    signal = float(correlation[apart].square().sum())
    shrinkage = min(1.0, float(errors[apart].sum()) / signal) if signal > 0 else 1.0
    correlation = (1 - shrinkage) * correlation
    correlation.fill_diagonal_(1.0)
    return correlation
