"""Griffe extension: docstrings as the site's renderer reads them.

``Example:`` becomes the section ``Examples:``, which griffe renders as code with its output, and a
Sphinx role (``:class:`~armorm.RewardModel` ``) the name alone.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


class Docstrings(griffe.Extension):
    """Rewrite the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = ROLE.sub(r"`\1`", text)
