"""Write docs/llms.txt, the site's table of contents for language models, from mkdocs.yml.

Run it after a change of the navigation: python scripts/build_llms_txt.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.utils.yaml import get_yaml_loader, yaml_load

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "llms.txt"

INTRODUCTION = """\
# armorm

> Reward models that people can read and steer: ArmoRM with a mixture-of-experts gate (Wang et al.
> 2024, arXiv 2406.12845), as a Python library, a command line and a reward server, on any Hugging
> Face decoder.

Links are to the Markdown of each page. llms-full.txt has all pages in one file. The score of a
response is the sum of its contributions, coefficient times reward of each objective; no score is
squashed to 0..1, and no text is cut silently.
"""


def page() -> str:
    """Return the file."""
    with (ROOT / "mkdocs.yml").open(encoding="utf-8") as file:
        navigation = yaml_load(file, get_yaml_loader())["nav"]
    parts = [INTRODUCTION]
    for section in navigation:
        for title, entries in section.items():
            lines = [_line(*item) for entry in entries for item in entry.items()]
            parts.append("\n".join([f"## {title}", "", *filter(None, lines), ""]))
    return "\n".join(parts)


def pages() -> Iterator[Path]:
    """Yield the pages of docs/ in the order of the table of contents."""
    for path in re.findall(r"\]\(([^)]+\.md)\)", page()):
        yield ROOT / "docs" / path


def _line(title: str, path: str) -> str | None:
    file = ROOT / "docs" / path
    if path.startswith("api/"):  # directives only: the built page has the text
        return f"- [{title}]({path.removesuffix('.md')}.html)"
    return f"- [{title}]({path}): {_first_sentence(file)}" if file.exists() else None


def _first_sentence(file: Path) -> str:
    """Return the first sentence of a page below its title, as plain text."""
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->|^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    body = text.partition("\n# ")[2] if not text.startswith("# ") else text
    paragraphs = [part.strip() for part in body.split("\n\n")[1:]]
    first = next(part for part in paragraphs if part and not part.startswith(("#", "|", "!", "-")))
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", " ".join(first.split()))
    return re.split(r"(?<=[.:])\s", plain)[0].rstrip(":.") + "."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
