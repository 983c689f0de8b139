"""Explanations of scores and of preferences: records that say what each objective adds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from armorm.errors import ArmormError
from armorm.model import wording
from armorm.model.answers import shaped_by
from armorm.model.flips import Flips
from armorm.model.profiles import SteeringProfile
from armorm.model.steering import Steering

if TYPE_CHECKING:
    import shap


@dataclass(frozen=True, slots=True)
class ConfounderPart:
    """Part of a score, or of a preference, that is the confounder (:mod:`armorm.model.confounder`).

    Attributes:
        objective: Name of the confounder, such as ``length``.
        kept: True where the gate can weigh it; false where debiasing drops it from the score, so
            that the gate's weight on it is no opinion.
        gate_share: Share of the gate's weights that is on it and its reverse.
        coefficient: Weight of its reward beside the debiased rest, steering included.
        contribution: ``coefficient`` times its reward, or in a comparison times the difference of
            its rewards. Score or margin minus this is what the debiased rest alone gives.
        share: Share of the margin that ``contribution`` is: above 1 where the debiased rest prefers
            the other response, negative where the confounder speaks against the preferred one;
            ``None`` for a single score, and for a tie.
    """

    objective: str
    kept: bool
    gate_share: float
    coefficient: float
    contribution: float
    share: float | None = None

    @property
    def sentence(self) -> str:
        """Sentence for people."""
        if self.share is not None and self.share > 1:
            return (
                f"{self.objective} decides this preference: without it the other response is ahead."
            )
        if self.share is not None and self.share < 0:
            return f"{self.objective} speaks against this preference ({self.contribution:+.4f})."
        if self.share is not None:
            return f"{self.share:.0%} of this preference is {self.objective}."
        if not self.kept:
            return (
                f"{self.gate_share:.0%} of the gate is on {self.objective}, which debiasing drops: "
                "no opinion."
            )
        return (
            f"{self.gate_share:.0%} of the gate is {self.objective}: it adds "
            f"{self.contribution:+.4f} to the score."
        )


@dataclass(frozen=True, slots=True)
class ObjectiveShare:
    """Contribution of one objective to a score.

    Attributes:
        objective: Name of the objective.
        reward: Predicted unit reward.
        rating: The prediction in the raters' units (such as HelpSteer points).
        gating: Output of the gate.
        coefficient: Weight of the reward in the score, debiasing and steering included.
        contribution: ``coefficient * reward``; the contributions sum to the score.
        deviation: Standard deviation of a new rating around ``rating``, in its units; ``None``
            if the model folder holds no uncertainty.
        epistemic: Standard deviation of ``rating`` itself, in its units.
        interval: Ratings between which 90 % of new ones lie, whatever their distribution
            (conformal); ``None`` if too few ratings were held out.
        normal_interval: The same if ratings are normally distributed around the prediction.
        mean_reward: Mean unit reward of the reference responses; ``None``, like the next three, if
            the model folder holds no reference.
        above_mean: ``coefficient * (reward - mean_reward)``; these sum to the score less
            ``Explanation.mean_score``.
        neighbours_gating: Average output of the gate over the reference prompts that are nearest to
            this one.
        mean_gating: Average over all reference prompts.
    """

    objective: str
    reward: float
    rating: float
    gating: float
    coefficient: float
    contribution: float
    deviation: float | None = None
    epistemic: float | None = None
    interval: tuple[float, float] | None = None
    normal_interval: tuple[float, float] | None = None
    mean_reward: float | None = None
    above_mean: float | None = None
    neighbours_gating: float | None = None
    mean_gating: float | None = None

    @property
    def effect(self) -> float:
        """Contribution above the mean of the reference, or all of it where there is none."""
        return self.contribution if self.above_mean is None else self.above_mean


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score with what every objective adds to it, the largest first.

    Attributes:
        score: The score.
        objectives: Shares of the objectives, the largest ``effect`` first.
        mean_score: Mean score of the reference responses under the same coefficients; ``None``,
            like the next two, if the model folder holds no reference.
        percentile: Percentage of the reference scores, each under the coefficients of its own
            prompt, that are below this one.
        neighbours: Number of nearest reference prompts over which the gate is averaged.
        deviation: Standard deviation of the score of new ratings; ``None``, like the next three,
            if the model folder holds no uncertainty.
        epistemic: Standard deviation of the predicted score, without the noise of raters.
        novelty: Distance of the response's features from those of the rated rows; 1 is typical.
        novel: True if the novelty exceeds that of 99 % of held-out rated rows, so that the
            rewards are guesses.
        steering: The steering that shaped the score; ``None`` without any.
        confounder: Part of the confounder; ``None`` if the model is not debiased.
        profile: The profile that shaped it; ``None`` without any.

    Example:
        >>> from armorm import RewardModel
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> explanation = model.explain([
        ...     {"role": "user", "content": "What is 2 plus 3?"},
        ...     {"role": "assistant", "content": "2 plus 3 is 5."},
        ... ])
        >>> shares = explanation.objectives
        >>> abs(sum(share.contribution for share in shares) - explanation.score) < 1e-5
        True
        >>> gain = explanation.score - explanation.mean_score
        >>> abs(sum(share.above_mean for share in shares) - gain) < 1e-5
        True
    """

    score: float
    objectives: tuple[ObjectiveShare, ...]
    mean_score: float | None = None
    percentile: float | None = None
    neighbours: int | None = None
    deviation: float | None = None
    epistemic: float | None = None
    novelty: float | None = None
    novel: bool | None = None
    steering: Steering | None = None
    confounder: ConfounderPart | None = None
    profile: SteeringProfile | None = None

    @property
    def sentence(self) -> str:
        """The explanation in words."""
        return wording.of_score(self)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record; ``steering`` and ``profile`` only where there is one."""
        return {
            "score": self.score,
            "sentence": self.sentence,
            "mean_score": self.mean_score,
            "percentile": self.percentile,
            "objectives": [asdict(share) for share in self.objectives],
            "neighbours": self.neighbours,
            "deviation": self.deviation,
            "epistemic": self.epistemic,
            "novelty": self.novelty,
            "novel": self.novel,
            **_common(self),
        }

    def to_shap(self) -> shap.Explanation:
        """Return the explanation for the plots of the package ``shap``.

        For a function that is linear in the rewards, Shapley values are the contributions above the
        mean: ``values`` are ``above_mean``, and ``base_values`` is ``mean_score``.  Without a
        reference they are the contributions, and 0.  ``data`` are the ratings.

        Raises:
            ArmormError: The package is not installed.
        """
        try:
            import shap
        except ImportError:
            raise ArmormError(
                "to_shap needs the package shap, which is not installed: pip install shap"
            ) from None
        import numpy as np

        return shap.Explanation(
            values=np.array([share.effect for share in self.objectives]),
            base_values=0.0 if self.mean_score is None else self.mean_score,
            data=np.array([share.rating for share in self.objectives]),
            feature_names=[share.objective for share in self.objectives],
        )


@dataclass(frozen=True, slots=True)
class ObjectiveDifference:
    """Contribution of one objective to the difference of two scores.

    Attributes:
        objective: Name of the objective.
        coefficient: Weight of the reward for this prompt; the same for both responses.
        rating_a: Prediction for a, in the raters' units.
        rating_b: Prediction for b, in the raters' units.
        reward_a: Predicted unit reward of a.
        reward_b: Predicted unit reward of b.
        contribution: ``coefficient * (reward_a - reward_b)``; these sum to the margin.
    """

    objective: str
    coefficient: float
    rating_a: float
    rating_b: float
    reward_a: float
    reward_b: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, with the contribution of every objective, the largest first.

    Attributes:
        score_a: Score of a.
        score_b: Score of b.
        margin: ``score_a - score_b``.
        probability: Bradley–Terry probability that a is preferred; ``None`` if the model folder
            holds no learned scale beta, or steering changed the scale of the scores.
        preferred: ``a``, ``b`` or ``tie``. The floors of a profile come before the scores.
        objectives: Contributions of the objectives to the margin.
        below_floors: Those of ``a`` and ``b`` that are below a floor of the profile.
        flips: Smallest changes of the weights that turn the preference around; ``None`` for a tie.
        steering: The steering that shaped the scores; ``None`` without any.
        confounder: Part of the confounder; ``None`` if the model is not debiased.
        profile: The profile that shaped it; ``None`` without any.

    Example:
        >>> from armorm import RewardModel
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> comparison = model.compare("What is 2 plus 3?", "2 plus 3 is 5.", "2 plus 3 is 5.")
        >>> comparison.preferred, comparison.margin, comparison.probability
        ('tie', 0.0, 0.5)
    """

    score_a: float
    score_b: float
    margin: float
    probability: float | None
    preferred: Literal["a", "b", "tie"]
    objectives: tuple[ObjectiveDifference, ...]
    below_floors: tuple[str, ...] = ()
    flips: Flips | None = None
    steering: Steering | None = None
    confounder: ConfounderPart | None = None
    profile: SteeringProfile | None = None

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        return wording.of_preference(self)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record; ``steering`` and ``profile`` only where there is one."""
        return {
            "score_a": self.score_a,
            "score_b": self.score_b,
            "margin": self.margin,
            "probability": self.probability,
            "preferred": self.preferred,
            "below_floors": list(self.below_floors),
            "sentence": self.sentence,
            "objectives": [asdict(difference) for difference in self.objectives],
            "flips": None if self.flips is None else self.flips.as_dict(),
            **_common(self),
        }


def _common(answer: Explanation | Comparison) -> dict[str, Any]:
    confounder = None if answer.confounder is None else asdict(answer.confounder)
    return {"confounder": confounder, **shaped_by(answer.steering, answer.profile)}
