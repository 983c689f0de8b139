"""The documentation site: built strictly, complete, and without anything from elsewhere."""

from __future__ import annotations

import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import armorm
import armorm.data
import armorm.integrations
import armorm.serving

ROOT = Path(__file__).parents[1]
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements whose address a browser loads by itself, and the attribute that has it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a page outside the navigation or a broken link or anchor is an error."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


class Fetched(HTMLParser):
    """The addresses that a page loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        address = dict(attributes).get(FETCHED.get(tag, ""))
        if address:
            self.addresses.append(address)


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert [one for one in Fetched(text).addresses if re.match(r"\w+:|//", one)] == []
        assert 'class="mermaid"' not in text  # the theme would load a program for it
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text("utf-8"))


def test_markdown_is_rendered_as_on_github(site):
    """Lists and tables that GitHub shows need an empty line before them here."""
    for page in site.glob("*.html"):
        paragraphs = re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL)
        marked = [one for one in paragraphs if re.search(r"^\s*([-*|]|\d+\.) ", one, re.MULTILINE)]
        assert marked == [], page.name


@pytest.mark.parametrize(
    ("page", "package"),
    [
        ("armorm", armorm),
        ("data", armorm.data),
        ("integrations", armorm.integrations),
        ("serving", armorm.serving),
    ],
)
def test_every_public_name_is_in_the_reference(site, page, package):
    text = (site / "api" / f"{page}.html").read_text(encoding="utf-8")
    documented = {one.rpartition(".")[2] for one in re.findall(r'id="(armorm\.[\w.]+)"', text)}
    names = getattr(package, "__all__", None) or set(dir(package)) - {"lazy_names"}
    public = {name for name in names if name[0] != "_" and not is_module(package, name)}
    assert public - documented == set(), f"add to docs/api/{page}.md: ::: {package.__name__}.NAME"


def is_module(package: ModuleType, name: str) -> bool:
    return isinstance(getattr(package, name), ModuleType)


def test_every_command_is_in_the_reference(site):
    text = (site / "commands.html").read_text(encoding="utf-8")
    assert {'id="armorm-train"', 'id="armorm-data-check"'} <= set(re.findall(r'id="[\w-]+"', text))


def test_the_table_of_contents_for_language_models_is_up_to_date(site):
    page = runpy.run_path(str(ROOT / "scripts" / "build_llms_txt.py"))["page"]()
    assert (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8") == page, (
        "run: python scripts/build_llms_txt.py"
    )
    for address in re.findall(r"\]\(([^)]+)\)", page):
        assert (site / address).is_file()
