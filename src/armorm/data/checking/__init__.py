"""Checks of data files: invalid rows, duplicates, leaks, benchmark contamination."""

from armorm.data.checking.files import CheckOptions, check_files
from armorm.data.checking.overlap import KnownTexts, Prompts, shingles
from armorm.data.checking.report import CheckReport, Finding

__all__ = [
    "CheckOptions",
    "CheckReport",
    "Finding",
    "KnownTexts",
    "Prompts",
    "check_files",
    "shingles",
]
