"""The command line: parsing and printing only."""

from typing import TYPE_CHECKING

from armorm.cli.process import main
from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.cli.application import app

# Imported when a command runs, so that signals are handled before anything that takes time.
__getattr__, __dir__ = lazy_names(__name__, {"armorm.cli.application": ("app",)})

__all__ = ["app", "main"]
