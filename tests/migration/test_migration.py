"""Folders as older versions wrote them, converted; the old files are written here by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from armorm import Backbone, PreferencePair, RewardModel, extract_features
from armorm.errors import ArmormError, CheckpointError, OutputError, StoreError
from armorm.migration import FORMATS, inspect, migrate
from tests.commands import armorm, invoke
from tests.tiny_models import conversation, make_rated_model

UNCERTAINTY = "uncertainty/head.safetensors"
TEXTS = [conversation("yes one two"), conversation("no thanks a b c")]


@pytest.fixture(scope="module")
def saved(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migration") / "model"
    make_rated_model(tiny_backbone)[0].save_pretrained(folder, license_id="apache-2.0")
    return folder


@pytest.fixture
def old(saved: Path, tmp_path: Path) -> Path:
    """The folder as it was written before 2026-11-24: format 1 of both files."""
    folder = tmp_path / "old"
    shutil.copytree(saved, folder)
    metadata = json.loads((folder / "armorm.json").read_text())
    for objective in metadata["objectives"]:
        for name in ("computed", "mirrors", "range_from_data"):
            del objective[name]
    check = metadata["self_check"]
    names = ("prompt", "response", "ids_sha256", "score", "magnitude", "dtype")
    metadata = {
        "format_version": 1,
        **{name: metadata[name] for name in ("objectives", "beta", "debiasing", "training")},
        "self_check": {name: check[name] for name in names},
    }
    (folder / "armorm.json").write_text(json.dumps(metadata))
    tensors = load_file(folder / UNCERTAINTY)
    for name in ("overlap", "conformal", "format_version"):
        del tensors[name]
    save_file(tensors, folder / UNCERTAINTY)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def load(folder: Path) -> RewardModel:
    return RewardModel.from_pretrained(folder, device="cpu", dtype="float32")


def test_a_model_folder_of_format_1_scores_the_same_in_the_present_one(saved, old):
    with pytest.raises(CheckpointError, match=r"format 1 .*written by unknown.*armorm migrate"):
        load(old)
    before = files(old)
    said = invoke("migrate", old)
    assert "armorm.json: model folder, format 1, older than 2" in said
    new = old.with_name("old.migrated")
    assert said.splitlines()[-1] == f"Written to {new}."
    assert files(old) == before
    expected = load(saved).score(TEXTS, uncertainty=True)
    found = load(new).score(TEXTS, uncertainty=True)  # its self-check is compared
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.uncertainty.deviations, expected.uncertainty.deviations)
    assert found.uncertainty.half_widths.isnan().all()
    assert "license: apache-2.0" in (new / "README.md").read_text()
    assert load(new).heads.training == load(saved).heads.training
    assert all(part.is_current for part in inspect(new))


def test_score_deviations_are_those_of_the_version_that_wrote_them(saved, old):
    """Format 1: the variance of a score is w' C w, with the residuals' correlation throughout."""
    migrate(old, in_place=True)
    model = load(old)
    rewards = model.score(TEXTS, uncertainty=True)
    weights = rewards.coefficients.double().numpy()
    scaled = weights * rewards.uncertainty.epistemic.double().numpy()
    correlation = load_file(saved / UNCERTAINTY)["correlation"]
    head = model.uncertainty.head
    if len(head.factors) == 1:  # one factor: the objectives share their rows
        expected = np.sqrt(np.einsum("ni,ij,nj->n", scaled, correlation, scaled))
        np.testing.assert_allclose(rewards.uncertainty.score_epistemic, expected, rtol=1e-4)
    np.testing.assert_array_equal(head.overlap, np.ones_like(correlation))


def test_a_current_folder_is_left_alone(saved, tmp_path):
    done = migrate(saved, tmp_path / "new")
    assert done.output is None
    assert not (tmp_path / "new").exists()
    assert all(part.is_current for part in done.parts)
    printed = json.loads(invoke("migrate", saved, "--check", "--json"))
    assert [part["format"] for part in printed["parts"]] == [
        "uncertainty of a head",
        "model folder",
    ]
    assert printed["parts"][1]["written_by"].startswith("armorm ")


def test_a_model_that_answers_otherwise_is_refused_and_nothing_written(old):
    metadata = json.loads((old / "armorm.json").read_text())
    for name, value, message in (
        ("score", metadata["self_check"]["score"] + 1.0, "was saved with"),
        ("ids_sha256", "0" * 64, "other token ids"),
    ):
        changed = {**metadata, "self_check": {**metadata["self_check"], name: value}}
        (old / "armorm.json").write_text(json.dumps(changed))
        before = files(old)
        with pytest.raises(CheckpointError, match=message):
            migrate(old, in_place=True)
        assert files(old) == before
        assert sorted(path.name for path in old.parent.iterdir() if path.is_dir()) == ["old"]


def test_a_run_folder_is_migrated_whole_or_not_at_all(old, tiny_backbone, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(old, run / "model")
    (run / "metrics.json").write_text("{}")
    (run / "head").mkdir()
    shutil.copy(old / UNCERTAINTY, run / "head" / "uncertainty.safetensors")
    prompt = ({"role": "user", "content": "hello"},)
    store = run / "features" / "preferences"
    extract_features([PreferencePair(prompt, "yes", "no")], tiny_backbone, store)
    done = migrate(run, tmp_path / "new")
    assert [(part.file, part.version) for part in done.parts] == [
        ("head/uncertainty.safetensors", 1),
        (f"model/{UNCERTAINTY}", 1),
        ("features/preferences/manifest.json", 3),
        ("model/armorm.json", 1),
    ]
    assert all(part.is_current for part in inspect(tmp_path / "new"))
    new, unchanged = files(tmp_path / "new"), ("metrics.json", "features/preferences/index.parquet")
    assert all(new[name] == files(run)[name] for name in unchanged)

    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))
    failed = armorm("migrate", run, "--in-place")
    assert failed.returncode == 1
    assert "format 2 of a feature store cannot be converted: its rows are known" in failed.stderr
    assert "Extract the features again" in failed.stderr
    assert inspect(run / "model")[1].version == 1


@pytest.mark.parametrize("version", [99, 0, "2", None, True])
def test_a_version_that_is_not_known_is_refused(old, version):
    metadata = json.loads((old / "armorm.json").read_text())
    content = {**metadata, "format_version": version, "written_by": "armorm 9.1"}
    (old / "armorm.json").write_text(json.dumps(content))
    message = "newer than this program.*armorm 9.1" if version == 99 else "is not a version"
    with pytest.raises(ArmormError, match=message):
        migrate(old)


def test_other_folders_and_damaged_ones_are_refused(old, tmp_path):
    with pytest.raises(ArmormError, match="is not a model folder, a run folder or a feature store"):
        migrate(tmp_path / "nothing")
    with pytest.raises(OutputError, match="inside the folder"):
        migrate(old, old / "new")
    with pytest.raises(OutputError, match="holds files"):
        migrate(old, tmp_path)
    (old / UNCERTAINTY).write_bytes(b"no tensors")
    with pytest.raises(StoreError, match="is damaged"):
        migrate(old)


def test_each_older_version_has_a_step():
    for form in FORMATS:
        assert sorted(form.steps) == list(range(1, form.current)), (
            f"{form.name}: a new version needs a step from the one before it"
        )
