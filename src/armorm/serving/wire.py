"""Requests and answers of the native API, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from armorm.conversations import OverlongError
from armorm.errors import ArmormError, InputError

Include = Literal[
    "rewards",
    "gating",
    "coefficients",
    "contributions",
    "uncertainty",
    "percentile",
    "explanation",
]
"""Parts of a result besides the score."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
ByObjective = dict[str, float]

_MESSAGES: list[JsonValue] = [
    {"role": "user", "content": "What is 2 plus 3?"},
    {"role": "assistant", "content": "2 plus 3 is 5."},
]


class Wire(BaseModel):
    """Base class: immutable, strict about types, and an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Reply(Wire):
    """Base class of answers: a client skips fields that a newer server adds."""

    model_config = ConfigDict(extra="ignore")


class Message(Wire):
    """One turn of a conversation."""

    role: str = Field(examples=["user"])
    """system (first only), user or assistant."""
    content: str = Field(examples=["What is 2 plus 3?"])
    """Text, as people wrote it: control tokens spelled in it are text."""


Messages = Annotated[list[Message], Field(fail_fast=True)]
"""Messages, of which only the first error is listed: a body may hold millions of wrong ones."""

Texts = Annotated[list[str], Field(fail_fast=True)]

Prompt = str | Messages
"""Messages that end with the user's, or the text of one user turn."""


class Body(Wire):
    """Fields that every request for scores may have."""

    steering: str | dict[str, Any] | None = Field(
        default=None,
        examples=[{"factors": {"helpdesk-courtesy": 2.0}}, "safety-first"],
    )
    """Steering of this request in place of the served model's: the settings factors, weights,
    mixture, debiasing, add and renormalise, or the name of a profile (GET /v1/profiles)."""
    include: Annotated[list[Include], Field(fail_fast=True)] = Field(
        default_factory=list, examples=[["rewards", "contributions"]]
    )
    """Parts of each result besides the score."""
    deadline_ms: int | None = Field(default=None, ge=1, examples=[5000])
    """Milliseconds that the client waits; takes the place of the header X-Deadline-Ms."""


class ScoreBody(Body):
    """Conversations to score, or one prompt with responses, which share its computation."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"conversations": [_MESSAGES]},
                {
                    "prompt": "What is 2 plus 3?",
                    "responses": ["2 plus 3 is 5.", "No idea."],
                    "include": ["rewards"],
                },
            ]
        }
    )

    conversations: Annotated[list[Messages], Field(fail_fast=True)] | None = Field(
        default=None, min_length=1
    )
    """Conversations, each a list of messages that ends with the assistant's."""
    prompt: Prompt | None = None
    """Messages that end with the user's, or the text of one user turn."""
    responses: Texts | None = Field(default=None, min_length=1)
    """Responses to the prompt."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_protocols(cls, body: Any) -> Any:
        if isinstance(body, dict):
            for name in ("text_1", "queries", "data_1"):
                if name in body:
                    raise ValueError(f"{name} is a field of vLLM's form: post it to /score")
        return body

    @model_validator(mode="after")
    def _check_form(self) -> ScoreBody:
        one = (self.prompt is None, self.responses is None)
        if (self.conversations is None) != (one == (False, False)) or one[0] != one[1]:
            raise ValueError("give either conversations, or prompt and responses")
        return self


class CompareBody(Body):
    """Two responses to one prompt."""

    prompt: Prompt
    """Messages that end with the user's, or the text of one user turn."""
    a: str = Field(examples=["2 plus 3 is 5."])
    """First response."""
    b: str = Field(examples=["No idea."])
    """Second response."""


class BestOfBody(Body):
    """Responses to one prompt, of which the best is asked for."""

    prompt: Prompt
    """Messages that end with the user's, or the text of one user turn."""
    responses: Texts = Field(min_length=1, examples=[["2 plus 3 is 5.", "No idea."]])
    """Responses to the prompt."""
    floors: dict[str, Number] = Field(
        default_factory=dict, examples=[{"helpdesk-correctness": 0.2}]
    )
    """Least unit reward of some objectives: a response below any of them loses to every response
    that is not."""


class ErrorRecord(Reply):
    """Reason why there is no score."""

    type: str
    """Name of the kind of error, for programs."""
    message: str
    """What was wrong and what to do."""
    field: str | None = None
    value: str | None = None
    reason: str | None = None
    remedy: str | None = None
    problems: list[dict[str, str]] | None = None
    """Every wrong field, where the request as a whole could not be read."""
    code: int | None = None
    """HTTP status."""
    request_id: str | None = None

    def exception(self) -> ArmormError:
        """Return the error that a caller of the model itself would have got."""
        if self.field is None:
            return ArmormError(self.message)
        kind = OverlongError if self.type == "too_long" else InputError
        return kind(self.field, _Shown(self.value), self.reason or "", self.remedy or "")


class _Shown(str):
    """Value that the server has shortened and quoted."""

    def __repr__(self) -> str:
        return str(self)


class ErrorAnswer(Reply):
    """Body of every status of 400 and above."""

    error: ErrorRecord


class Result(Reply):
    """Score of one conversation, or the reason why it has none."""

    score: float | None = None
    rewards: ByObjective | None = None
    """Unit reward of each objective: 0 and 1 are the ends of its scale."""
    gating: ByObjective | None = None
    """Output of the gate."""
    coefficients: ByObjective | None = None
    """Weight of each reward in the score, debiasing and steering included."""
    contributions: ByObjective | None = None
    """Part of the score that comes from each objective; they sum to it."""
    deviations: dict[str, float | None] | None = None
    """Standard deviation of a new rating around each reward."""
    epistemic: dict[str, float | None] | None = None
    """Standard deviation of each reward itself, without the noise of raters."""
    half_widths: dict[str, float | None] | None = None
    """Distance from each reward within which 90 % of new ratings lie."""
    score_deviation: float | None = None
    """Standard deviation of the score of new ratings."""
    score_epistemic: float | None = None
    """Standard deviation of the predicted score."""
    novelty: float | None = None
    """Distance of the response from the rated rows; 1 is typical."""
    novel: bool | None = None
    """True where the novelty exceeds that of 99 % of held-out rated rows."""
    percentile: float | None = None
    """Percentage of the scores of held-out pairs of the training that are below this one, under
    the same steering; null if the model folder holds no reference."""
    explanation: dict[str, Any] | None = None
    """Contribution of every objective, the largest first."""
    error: ErrorRecord | None = None
    """Why this conversation, and no other, has no score."""


class Usage(Reply):
    """Work that a request was."""

    tokens: int
    """Tokens of all conversations, each counted whole."""
    computed_tokens: int | None
    """Tokens that went through the model: what requests share counts once."""


class Answer(Reply):
    """Fields that every answer with scores has."""

    model: str
    """Name of the model."""
    objectives: list[str]
    """Names of the objectives, in the model's order."""
    steering: dict[str, Any]
    """Steering that shaped the scores; empty without any."""
    profile: dict[str, str] | None = None
    """Name and hash of the profile that shaped them; missing without any."""
    usage: Usage


class ScoreAnswer(Answer):
    """Scores, in the order of the request."""

    results: list[Result]

    @property
    def scores(self) -> list[float]:
        """All scores.

        Raises:
            ArmormError: There is no score for some conversation; the error names its row.
        """
        for row, result in enumerate(self.results, start=1):
            if result.error is not None:
                error = result.error.exception()
                raise error.at(None, row) if isinstance(error, InputError) else error
        return [result.score for result in self.results if result.score is not None]


class CompareAnswer(Answer):
    """Preferred response, and the objectives that decided."""

    preferred: Literal["a", "b", "tie"]
    margin: float
    """Score of a minus score of b."""
    probability: float | None
    """Probability that a is preferred; null where steering changed the scale of the scores."""
    comparison: dict[str, Any]
    """Contribution of each objective to the margin, the largest first."""
    a: Result
    b: Result


class BestOfAnswer(Answer):
    """Position of the best response, and all results."""

    best: int
    """Position of the best response, the first of equal ones."""
    ranking: list[int]
    """Positions from the best to the worst."""
    meets_floors: list[bool]
    """For each response, if no reward is below its floor."""
    results: list[Result]


class ObjectiveRecord(Reply):
    """One objective of the model."""

    name: str
    description: str
    minimum: float
    """Lowest rating."""
    maximum: float
    """Highest rating."""
    unit_zero: float
    """Rating that is unit reward 0."""
    unit_one: float
    """Rating that is unit reward 1."""
    direction: Literal["higher", "lower", "neutral"]
    """What is better."""


class ObjectivesAnswer(Reply):
    """Objectives, in the model's order."""

    objectives: list[ObjectiveRecord]


class ModelAnswer(Reply):
    """The served model."""

    name: str
    version: str
    """Version of armorm."""
    fingerprint: str
    """Hash of everything that a score depends on."""
    objectives: int
    max_length: int | None
    """Maximum number of tokens of a conversation."""
    dtype: str
    steering: dict[str, Any]
    """Steering of the served model; empty without any."""
    uncertainty: bool
    """True if the model can say how sure it is."""
    probabilities: bool
    """True if comparisons have a probability."""


class ProfilesAnswer(Reply):
    """Steering profiles, by name, each with its hash."""

    profiles: dict[str, dict[str, Any]]
