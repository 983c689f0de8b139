"""Pages of an audit and of a diff: one HTML file each, that needs nothing from outside.

Every text goes through jinja2's escaping, so no prompt or response becomes HTML; pictures are
inline SVG in the page's own colours, light or dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from armorm.evaluation.audit.counterfactuals import ChangeReport
from armorm.evaluation.audit.statistics import Estimate
from armorm.evaluation.pages import write_page


def write_audit_page(file: Path, template: str, **values: Any) -> None:
    """Render a template of audits and diffs to a file.

    Raises:
        OutputError: The file cannot be written.
    """
    filters: dict[str, Callable[..., Any]] = {
        "estimate": Estimate.text,
        "percent": lambda found, digits=0: found.text(digits + 2, percent=True),
        "signed": lambda value: "–" if value is None else f"{value:+z.2f}".replace("-", "−"),
        "leading": _leading,
        "line": _line,
        "block": _block,
        "code": lambda text: Markup(f"`{' '.join(re.sub('[`|]', '', text).split())}`"),
        "by_flips": _by_flips,
    }
    write_page(file, template, filters, **values)


def _leading(parts: dict[str, float], count: int = 3) -> list[tuple[str, float]]:
    """Return the largest parts of a sum, without those that show as zero."""
    ordered = sorted(parts.items(), key=lambda item: -abs(item[1]))
    return [(name, value) for name, value in ordered[:count] if abs(value) >= 0.005]


def _by_flips(changes: Iterable[ChangeReport]) -> list[ChangeReport]:
    """Return changes by their share of flips, those without one last."""
    known = [one for one in changes if one.flip_rate.value is not None]
    rest = [one for one in changes if one.flip_rate.value is None]
    return sorted(known, key=lambda one: -(one.flip_rate.value or 0.0)) + rest


def _line(text: str) -> Markup:
    """Return text for one line of Markdown, in which nothing of it is markup."""
    escaped = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", " ".join(text.split()))
    # GitHub looks for people and issues to link in the rendered text, where no backslash is left.
    return Markup(re.sub("([@#])", r"<span>\1</span>", html.escape(escaped, quote=False)))


def _block(text: str, limit: int = 600) -> Markup:
    """Return the beginning of a text for HTML within Markdown, which an empty line would end."""
    cut = text if len(text) <= limit else f"{text[:limit]} …"
    return Markup(html.escape(re.sub(r"\n\s*\n", "\n", cut)))
