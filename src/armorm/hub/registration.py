"""Registration with transformers' auto classes, which then load exports without remote code.

``import armorm`` must not import transformers (the command line's help would wait for it), so the
registration happens when transformers' own table of model classes is imported, or at once if it
has been imported already.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

MODEL_TABLE = "transformers.models.auto.modeling_auto"


def register() -> None:
    """Register the gated reward model with transformers' auto classes."""
    from transformers import AutoModelForSequenceClassification

    from armorm.hub.modeling_armorm import ArmoRMConfig, RewardModelWithGating

    table = AutoModelForSequenceClassification
    table.register(ArmoRMConfig, RewardModelWithGating, exist_ok=True)
    # Saving the transformers object then copies the modelling file too.
    ArmoRMConfig.register_for_auto_class()
    RewardModelWithGating.register_for_auto_class(table.__name__)


def register_with_transformers() -> None:
    """Register now if transformers' table has been imported, else when it is."""
    if MODEL_TABLE in sys.modules:
        register()
    elif not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())


class _RegisterAfterImport(MetaPathFinder):
    """Finder that leaves one module to the other finders, and registers after it has run."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != MODEL_TABLE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    """Loader that runs another loader, then registers."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()
