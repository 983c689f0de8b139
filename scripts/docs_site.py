"""MkDocs hook: the parts of the site that are not under docs/.

- A page under docs/ links to ``../recipes/quickstart.yaml`` as GitHub resolves it. The site has a
  copy of every such file under ``repository/``, and the link points to the copy.
- ``commands.html`` is written from the commands.
- The Markdown of each page is beside it, and in ``llms-full.txt`` with all others.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import build_llms_txt
import docs_commands

ROOT = Path(__file__).parents[1]
IN_NAVIGATION = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
"""Pages outside docs/ that mkdocs.yml names."""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the commands, and the files of the repository that pages link to, at any remove."""
    files.append(File.generated(config, "commands.md", content=docs_commands.page()))
    for path in IN_NAVIGATION:
        files.append(_copy(path, config))
    pages = list(files.documentation_pages())
    while pages:
        page = pages.pop()
        for target, _ in LINK.findall(page.content_string):
            path = _linked_path(page, target)
            if _is_in_repository(path) and files.get_file_from_path(_site_path(path)) is None:
                copy = _copy(path, config)
                files.append(copy)
                if copy.is_documentation_page():
                    pages.append(copy)
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point the links to files of the repository at the site's copies."""
    folder = posixpath.dirname(page.file.src_uri)

    def to_the_copy(link: re.Match[str]) -> str:
        target, anchor = link.groups()
        path = _site_path(_linked_path(page.file, target))
        if files.get_file_from_path(path) is None:
            return link.group()  # no file: MkDocs reports it
        return f"]({posixpath.relpath(path, folder or '.')}{anchor or ''})"

    return LINK.sub(to_the_copy, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Write the Markdown of the pages beside them, and all of it into one file."""
    site, docs = Path(config.site_dir), Path(config.docs_dir)
    pages = list(build_llms_txt.pages())
    for page in pages:
        shutil.copyfile(page, site / page.relative_to(docs))
    texts = [page.read_text(encoding="utf-8") for page in pages]
    (site / "llms-full.txt").write_text("\n\n".join(texts), encoding="utf-8")


def _copy(path: str, config: MkDocsConfig) -> File:
    listed = InclusionLevel.INCLUDED if path in IN_NAVIGATION else InclusionLevel.NOT_IN_NAV
    source = ROOT / path
    content = source.read_bytes() if source.is_file() else _listing(source.parent)
    return File.generated(config, _site_path(path), content=content, inclusion=listed)


def _linked_path(page: File, target: str) -> str:
    """Return the path in the repository of a page's link."""
    if page.src_uri.startswith("repository/"):
        folder = posixpath.dirname(page.src_uri.removeprefix("repository/"))
    else:
        folder = posixpath.dirname(f"docs/{page.src_uri}")
    path = posixpath.normpath(posixpath.join(folder, target))
    if (ROOT / path).is_dir():
        path += "/README.md" if (ROOT / path / "README.md").exists() else "/index.md"
    return path


def _is_in_repository(path: str) -> bool:
    """Return True for a file, and for the page that lists a folder."""
    return (ROOT / path).is_file() or (path.endswith("/index.md") and (ROOT / path).parent.is_dir())


def _listing(folder: Path) -> str:
    """Return a page with the files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    links = "\n".join(f"- [{name}]({name})" for name in names)
    return f"# {folder.relative_to(ROOT)}/\n\n{links}\n"


def _site_path(path: str) -> str:
    """Return the path in the site of a file of the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"
