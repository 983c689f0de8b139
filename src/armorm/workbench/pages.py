"""Pages of scores: one HTML file each, that loads nothing from outside.

The pictures are drawn in the page by the scripts of this package, since the page weighs the scores
again when a slider moves.  Texts travel as JSON and become text nodes; a content security policy
runs no script but ours, known by its hash.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from armorm.files import write_atomically
from armorm.version import __version__
from armorm.workbench.scored import ScoredResponses

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("steering.js", "data.js", "pictures.js", "view.js")


@dataclass(frozen=True, slots=True)
class Asset:
    """Scripts or styles as one text.

    Attributes:
        text: The text.
        sha256: Its hash, as a content security policy spells it.
    """

    text: str
    sha256: str

    @classmethod
    @functools.cache
    def of(cls, *names: str) -> Asset:
        """Return files of the package, joined."""
        text = "".join((ASSETS / name).read_text(encoding="utf-8") for name in names)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return cls(text, digest)


def render_page(scored: ScoredResponses, title: str, subtitle: str = "") -> str:
    """Return the page of scored responses.

    Args:
        scored: The responses.
        title: Heading of the page.
        subtitle: Line below it.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    # Escaped to ASCII, so that no character of a text ends a line or the script element.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    script, style = Asset.of(*SCRIPTS, "page.js"), Asset.of("view.css", "page.css")
    return environment.get_template("page.html.jinja").render(
        payload=scored.payload(title, subtitle),
        script={"text": Markup(script.text), "sha256": Markup(script.sha256)},
        style={"text": Markup(style.text), "sha256": Markup(style.sha256)},
        version=__version__,
    )


def write_page(file: Path, scored: ScoredResponses, title: str, subtitle: str = "") -> None:
    """Write the page of scored responses to a file; see :func:`render_page`.

    Raises:
        OutputError: The file cannot be written.
    """
    page = render_page(scored, title, subtitle)
    write_atomically(file, page.encode("utf-8", "surrogatepass"))
