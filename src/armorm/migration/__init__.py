"""Folders in older formats, read and written in the present one."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.migration.formats import FORMATS, Format, Step
    from armorm.migration.running import Migration, Part, inspect, migrate

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "armorm.migration.formats": ("FORMATS", "Format", "Step"),
        "armorm.migration.running": ("Migration", "Part", "inspect", "migrate"),
    },
)

__all__ = ["FORMATS", "Format", "Migration", "Part", "Step", "inspect", "migrate"]
