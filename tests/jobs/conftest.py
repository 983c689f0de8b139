from __future__ import annotations

from pathlib import Path

import pytest

from armorm import RewardModel
from tests.tiny_models import make_heads


@pytest.fixture(scope="session")
def loading() -> dict[str, str]:
    """How every process of these tests loads a model."""
    return {"dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="session")
def model_folder(tiny_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaling") / "model"
    RewardModel(tiny_backbone, make_heads()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path, loading: dict[str, str]) -> RewardModel:
    return RewardModel.from_pretrained(model_folder, **loading)
