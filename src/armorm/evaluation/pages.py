"""Pages of results, rendered from the templates of this package, and the text of p values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from armorm.files import write_atomically


def write_page(
    file: Path,
    template: str,
    filters: Mapping[str, Callable[..., Any]],
    *,
    trim: bool = True,
    **values: Any,
) -> None:
    """Render a template to a file; every value is escaped.

    Args:
        file: The file.
        template: Name of the template.
        filters: Filters of the template.
        trim: Remove the lines that hold nothing but a statement of the template.
        **values: Values of the template.

    Raises:
        OutputError: The file cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("armorm.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=trim,
        lstrip_blocks=trim,
    )
    environment.filters.update(filters)
    page = environment.get_template(template).render(**values)
    write_atomically(file, page.encode("utf-8", "surrogatepass"))


def p_value(p: float | None) -> str:
    """Return a p value as text: four decimals, or ``<0.0001``; empty if there is none."""
    if p is None:
        return ""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
