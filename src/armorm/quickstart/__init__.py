"""The embedded example: a small corpus with planted truth, and a backbone that has read others."""

from pathlib import Path

from armorm.quickstart.corpus import (
    Corpus,
    generate_contrasts,
    generate_corpus,
    generate_plain_contrasts,
)
from armorm.quickstart.objectives import DECIDING_OBJECTIVE, QUICKSTART_OBJECTIVES

BACKBONE = Path(__file__).parent / "assets" / "backbone"
"""Folder of the embedded backbone, a Llama with 2.5 million parameters."""

__all__ = [
    "BACKBONE",
    "DECIDING_OBJECTIVE",
    "QUICKSTART_OBJECTIVES",
    "Corpus",
    "generate_contrasts",
    "generate_corpus",
    "generate_plain_contrasts",
]
