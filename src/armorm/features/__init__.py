"""Features of conversations: the backbone, batching, the feature store, and extraction."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.features.backbone import Backbone, resolve_model_folder
    from armorm.features.engines import FeatureBackbone, load_engine
    from armorm.features.extraction import ExtractionSummary, extract_features
    from armorm.features.merging import MergedPrompts, merge_prompts
    from armorm.features.options import BackboneOptions, BackboneSource, Engine, StoreOptions
    from armorm.features.prefix_cuts import PrefixCuts
    from armorm.features.processes import Process
    from armorm.features.running import BackboneFeatures
    from armorm.features.store import FeatureStore
    from armorm.features.store_format import Manifest

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        # The command line takes its flags from the options, and does not wait for torch.
        "armorm.features.backbone": ("Backbone", "resolve_model_folder"),
        "armorm.features.engines": ("FeatureBackbone", "load_engine"),
        "armorm.features.extraction": ("ExtractionSummary", "extract_features"),
        "armorm.features.merging": ("MergedPrompts", "merge_prompts"),
        "armorm.features.options": (
            "BackboneOptions",
            "BackboneSource",
            "Engine",
            "StoreOptions",
        ),
        "armorm.features.prefix_cuts": ("PrefixCuts",),
        "armorm.features.processes": ("Process",),
        "armorm.features.running": ("BackboneFeatures",),
        "armorm.features.store": ("FeatureStore",),
        "armorm.features.store_format": ("Manifest",),
    },
)

__all__ = [
    "Backbone",
    "BackboneFeatures",
    "BackboneOptions",
    "BackboneSource",
    "Engine",
    "ExtractionSummary",
    "FeatureBackbone",
    "FeatureStore",
    "Manifest",
    "MergedPrompts",
    "PrefixCuts",
    "Process",
    "StoreOptions",
    "extract_features",
    "load_engine",
    "merge_prompts",
    "resolve_model_folder",
]
