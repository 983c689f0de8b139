"""What belongs to the package besides its code: recipes and the files of a repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import armorm
from armorm import Recipe
from armorm.errors import RecipeError
from armorm.training import shipped_recipes

ROOT = Path(__file__).parents[1]


def test_recipes_of_the_package_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # a run folder of that name is no recipe
    files = {file.stem: file.read_bytes() for file in (ROOT / "recipes").glob("*.yaml")}
    assert {name: file.read_bytes() for name, file in shipped_recipes().items()} == files
    for name in files:
        assert Recipe.load(name) == Recipe.load(ROOT / "recipes" / f"{name}.yaml")


def test_a_file_goes_before_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text(Recipe.load("quickstart", ["name=mine"]).dump())
    assert Recipe.load("quickstart").name == "mine"


def test_an_unknown_name_lists_the_recipes():
    with pytest.raises(RecipeError, match="Recipes of the package: armorm-llama3-8b, chain"):
        Recipe.load("quikstart")
    with pytest.raises(RecipeError, match=r"'recipes/none.yaml'\.$"):
        Recipe.load("recipes/none.yaml")


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == armorm.__version__
    assert "2406.12845" in citation["preferred-citation"]["url"]
