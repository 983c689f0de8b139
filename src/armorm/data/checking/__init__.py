"""Checks of data files: invalid rows, duplicates, leaks, benchmark contamination."""

from armorm.data.checking.files import CheckOptions, check_files
from armorm.data.checking.overlap import KnownTexts, Prompts, shingles

__all__ = ["CheckOptions", "KnownTexts", "Prompts", "check_files", "shingles"]
