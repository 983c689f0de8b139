"""A server in this process without a scheduler: each request is a call of the model."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from armorm import RewardModel
from armorm.serving import ScoredRequest, ScoreRequest, ServerOptions, Service, create_app


class DirectScorer:
    """Scorer of requests that calls the model at once."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    async def score(self, request: ScoreRequest) -> ScoredRequest:
        model = self.model.steer_by(request.steering)
        encoded = request.encoded(model)
        rewards = model.score_encoded([encoded], uncertainty=request.uncertainty)
        return ScoredRequest(rewards, self.model, encoded.tokens, None, 0.0)


def direct_client(
    model: RewardModel, *, key: str | None = None, profiles: Any = None, **options: Any
) -> TestClient:
    """Return a client of a server in this process."""
    service = Service(DirectScorer(model), ServerOptions(**options), profiles)
    return TestClient(create_app(service, key), raise_server_exceptions=False)
