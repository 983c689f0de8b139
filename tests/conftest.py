"""Small models that every test can afford: random weights, real formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from armorm import Backbone
from tests.commands import invoke
from tests.tiny import TEMPLATES, save_tiny_backbone

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a ChatML-like template, as a model folder."""
    folder = tmp_path_factory.mktemp("tiny-backbone")
    save_tiny_backbone(folder, TEMPLATES["chatml"])
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder: Path) -> Backbone:
    return Backbone.from_pretrained(tiny_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the quickstart, trained once; the command's output is beside it."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    recipe = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
    (folder.parent / "output.txt").write_text(invoke("train", recipe, "-o", folder))
    return folder
