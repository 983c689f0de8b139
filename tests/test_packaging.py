"""What belongs to the package besides its code: recipes and the files of a repository."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import jsonschema
import pytest
import yaml

import armorm
from armorm import Recipe, RewardModel
from armorm.errors import RecipeError
from armorm.training import shipped_recipes
from armorm.training.recipe_file import apply_override, read_recipe_file
from tests.commands import invoke
from tests.tiny_models import make_heads

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


def test_the_recipe_command_lists_and_prints_them():
    listed = invoke("recipe")
    assert [line.split()[0] for line in listed.splitlines()] == list(shipped_recipes())
    assert "yaml-language-server" not in listed
    assert invoke("recipe", "chain") == (ROOT / "recipes" / "chain.yaml").read_text()


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(invoke("schema", name))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schemas_in_the_repository_are_those_of_the_classes():
    script = runpy.run_path(str(ROOT / "scripts" / "build_schemas.py"))
    for name, file in script["FILES"].items():
        assert file.read_text(encoding="utf-8") == script["text"](name), (
            "run: python scripts/build_schemas.py"
        )


def test_recipes_fit_the_schema_that_their_first_line_names(tmp_path):
    recipes = validator("recipe")
    for file in (ROOT / "recipes").glob("*.yaml"):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert (file.parent / first.partition("$schema=")[2]).is_file()
        recipes.validate(read_recipe_file(file))
        (tmp_path / "full.yaml").write_text(Recipe.load(file).dump())
        recipes.validate(read_recipe_file(tmp_path / "full.yaml"))


@pytest.mark.parametrize(
    "override", ["gate.step=5", "gate.steps=0", "gate.seeds=two", "head.method=best", "data=null"]
)
def test_the_schema_refuses_what_a_recipe_refuses(override):
    content = read_recipe_file(ROOT / "recipes" / "quickstart.yaml")
    apply_override(content, override)
    assert list(validator("recipe").iter_errors(content))
    with pytest.raises(RecipeError):
        Recipe.load("quickstart", [override])


def test_a_saved_model_fits_its_schema(tiny_backbone, tmp_path):
    folder = tmp_path / "model"
    RewardModel(tiny_backbone, make_heads()).steer({"safe": 0.5}).save_pretrained(folder)
    content = json.loads((folder / "armorm.json").read_text())
    validator("model").validate(content)
    assert list(validator("model").iter_errors({**content, "colour": "red"}))


def test_third_parties_are_those_that_are_installed_and_catalogued():
    page = runpy.run_path(str(ROOT / "scripts" / "build_third_party.py"))["page"]()
    assert (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8") == page, (
        "run: python scripts/build_third_party.py"
    )
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert [row for row in rows if not row[2].strip(" |")] == []  # each has a licence


@pytest.mark.parametrize("name", ["ci", "docs", "release"])
def test_a_workflow_runs_what_the_makefile_has(name):
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    jobs = yaml.safe_load(text)["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        assert command.split()[0] == "make"
        assert command.split()[1] in targets
    assert {need for job in jobs.values() if (need := job.get("needs"))} <= jobs.keys()
