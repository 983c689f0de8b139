"""The OpenAPI document, and what the server makes of requests that are drawn from it."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.specs.openapi.checks import positive_data_acceptance

from armorm import Backbone, RewardModel
from armorm.serving import ServerOptions, Service, create_app
from tests.serving.direct import DirectScorer
from tests.tiny_models import make_heads

POSTS = ("POST /v1/score", "POST /v1/compare", "POST /v1/best-of")
GETS = ("/v1/objectives", "/v1/model", "/v1/profiles", "/health", "/health/live", "/ping")
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def app(tiny_backbone: Backbone):
    model = RewardModel(tiny_backbone, make_heads())
    return create_app(Service(DirectScorer(model), ServerOptions(access_log=False)))


@pytest.fixture(scope="module")
def operations(app):
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = (result.ok() for result in document.get_all_operations())
    return {operation.label: operation for operation in found}


@pytest.mark.parametrize(
    ("label", "mode"),
    [(label, mode) for label in POSTS for mode in (POSITIVE, NEGATIVE)]
    + [(f"GET {path}", POSITIVE) for path in GETS],
)
def test_every_operation_keeps_its_contract(operations, label, mode):
    cases = operations[label].as_strategy(generation_mode=mode)

    @hypothesis.given(case=cases)
    @hypothesis.settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        # A body may fit the schema and still ask for what cannot be: an unknown objective, say.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()


def test_requests_have_examples(app):
    document = app.openapi()
    for path in ("/v1/score", "/v1/compare", "/v1/best-of"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        reference = body["schema"]["$ref"].rpartition("/")[2]
        shape = document["components"]["schemas"][reference]
        assert "examples" in shape or any("examples" in one for one in shape["properties"].values())
        assert shape["additionalProperties"] is False
