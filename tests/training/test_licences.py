"""Licences of data travel with a head and a model, and a head can forget all data of a licence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from armorm import Recipe
from armorm.errors import ArmormError
from armorm.quickstart import generate_corpus
from armorm.training import features_stage, fit_head_stage, prepare_data, remove_licence
from armorm.training.statistics import HeadStatistics
from armorm.training.uncertainty import load_uncertainty
from tests.commands import armorm, invoke, write
from tests.tiny import TEMPLATES, save_tiny_backbone

_DISTINCT = {json.dumps([row["messages"], row["ratings"]]): row for row in generate_corpus(0).rated}
ROWS = list(_DISTINCT.values())[:600]
PAIRS = generate_corpus(0).preferences[:20]
PARTS = {
    "free": {"licence": "MIT", "rows": ROWS[::2]},
    "closed": {"licence": "CC-BY-NC-4.0", "rows": ROWS[1::4]},
    "open": {"licence": "CC-BY-4.0", "rows": ROWS[3::4]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("licences")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)
    for name, part in PARTS.items():
        write(folder / f"{name}.jsonl", part["rows"])
    write(folder / "pairs.jsonl", PAIRS)
    return folder


def recipe(folder: Path, *names: str) -> Recipe:
    """Return a recipe on some of the parts; its pairs are under another licence."""
    pairs = {"path": f"{folder}/pairs.jsonl", "source": "pairs", "licence": "CC-BY-NC-SA-4.0"}
    content = {
        "objectives": "quickstart",
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [
                {
                    "path": f"{folder}/{name}.jsonl",
                    "source": name,
                    "licence": PARTS[name]["licence"],
                }
                for name in names
            ],
            "preferences": [pairs],
            "held_out": {"fraction": 0.3},
        },
        "head": {"alphas": [0.1, 10.0], "folds": 3},
    }
    file = folder / f"{'-'.join(names)}.yaml"
    file.write_text(yaml.safe_dump(content))
    return Recipe.load(file)


def fit(folder: Path, *names: str) -> Path:
    run = folder / "-".join(names)
    features_stage(recipe(folder, *names), run)
    fit_head_stage(recipe(folder, *names), run)
    return run


def test_a_head_without_a_licence_is_that_of_a_fit_that_never_read_it(folder):
    run, fresh = fit(folder, "free", "closed", "open"), fit(folder, "free", "open")
    assert HeadStatistics.load(run / "head" / "statistics").licences == {
        name: part["licence"] for name, part in PARTS.items()
    }
    removal = remove_licence(run, "cc-by-nc*")
    assert removal.sources == {"closed": "CC-BY-NC-4.0"}
    assert removal.pairs == {"pairs": "CC-BY-NC-SA-4.0"}
    # The runs have computed their features in different batches: float32 rounds differently.
    found, expected = (load_file(one / "head" / "head.safetensors") for one in (run, fresh))
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, atol=1e-5 * np.abs(weight).max())
    one, other = (json.loads((one / "head" / "head.json").read_text()) for one in (run, fresh))
    for name, fitted in other["objectives"].items():
        assert one["objectives"][name] == pytest.approx(fitted, rel=1e-3, abs=1e-4, nan_ok=True)
    assert one["uncertainty"]["held_out_rows"] == other["uncertainty"]["held_out_rows"]
    one_head, other_head = (load_uncertainty(each / "head").head for each in (run, fresh))
    np.testing.assert_allclose(one_head.conformal, other_head.conformal, rtol=1e-3)
    assert one_head.usual_novelty == pytest.approx(other_head.usual_novelty, rel=1e-3)
    left, expected = (HeadStatistics.load(each / "head" / "statistics") for each in (run, fresh))
    assert (left.rows, left.prompts, left.licences) == (
        expected.rows, expected.prompts, expected.licences,
    )  # fmt: skip
    assert removal.rows > 0

    with pytest.raises(ArmormError, match=r"free \(MIT\), open \(CC-BY-4\.0\)"):
        remove_licence(run, "CC-BY-NC*")
    with pytest.raises(ArmormError, match="no head is left"):
        remove_licence(run, "*")
    said = invoke("head", "remove", run, "--license", "cc-by-4.0")
    assert "removed: open (CC-BY-4.0)" in said
    assert "take the sources out of your recipe" in said
    assert armorm("head", "remove", run).returncode == 2


def test_rows_that_come_later_bring_their_licence(folder, tmp_path):
    run = fit(folder, "free")
    more = write(tmp_path / "more.jsonl", [{**row, "source": "late"} for row in ROWS[1:40:2]])
    invoke("head", "add", run, more, "--license", "CC0-1.0", "--json")
    licences = HeadStatistics.load(run / "head" / "statistics").licences
    assert licences == {"free": "MIT", "late": "CC0-1.0"}


def test_prepared_files_keep_the_licence_of_their_source(folder, tmp_path):
    prepare_data(recipe(folder, "free", "closed"), tmp_path / "out")
    prepared = Recipe.load(tmp_path / "out" / "recipe.yaml")
    assert {Path(one.path).name: one.licence for one in prepared.data.rated} == {
        f"{split}-0{i}-{name}.parquet": PARTS[name]["licence"]
        for i, name in enumerate(("free", "closed"))
        for split in ("train", "held_out")
    }


def test_the_catalogue_states_the_licence_of_its_datasets(quickstart_run):
    model = json.loads((quickstart_run / "model" / "armorm.json").read_text())
    found = model["training"]["licences"]
    assert set(found["rated"].values()) == set(found["preferences"].values()) == {"Apache-2.0"}
    card = (quickstart_run / "model" / "README.md").read_text()
    for source in found["rated"]:
        assert f"| {source} | Apache-2.0 |" in card
    assert "non-commercial" not in card.lower()


def test_a_model_on_non_commercial_data_says_so_wherever_it_goes(quickstart_run, tmp_path):
    from armorm import RewardModel

    model = RewardModel.from_pretrained(quickstart_run / "model", device="cpu")
    model.heads.training["licences"]["rated"]["panel"] = "CC-BY-NC-4.0"
    model.save_pretrained(tmp_path / "model")
    done = armorm("export", tmp_path / "model", "-o", tmp_path / "again", "--license", "mit")
    assert "Not for commercial use: it was trained on panel (CC-BY-NC-4.0)." in done.stderr
    for folder in ("model", "again"):
        card = (tmp_path / folder / "README.md").read_text()
        assert "**Not for commercial use**: the licence of panel forbids it." in card
        assert "- non-commercial" in card.partition("\n---\n")[0]
