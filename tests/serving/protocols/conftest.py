"""One server on a port of this machine, with the scheduler, for the clients of every protocol."""

from __future__ import annotations

import pytest

from armorm import Backbone, RewardModel
from armorm.serving import ServerOptions, background_server
from tests.serving.direct import direct_client
from tests.tiny_models import make_heads


@pytest.fixture(scope="session")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="session")
def address(model):
    options = ServerOptions(port=0, access_log=False, served_name="tiny", max_conversations=8)
    with background_server(model, options) as found:
        yield found


@pytest.fixture(scope="session")
def client(model):
    """A client of the application without network and scheduler."""
    return direct_client(model, served_name="tiny", max_conversations=8)
