"""Features of conversations: the backbone, batching, the feature store, and extraction."""

from armorm.features.backbone import Backbone, resolve_model_folder
from armorm.features.engines import FeatureBackbone, load_engine
from armorm.features.extraction import ExtractionSummary, extract_features
from armorm.features.merging import MergedPrompts, merge_prompts
from armorm.features.options import BackboneOptions, BackboneSource, Engine, StoreOptions
from armorm.features.processes import Process
from armorm.features.running import BackboneFeatures
from armorm.features.store import FeatureStore
from armorm.features.store_format import Manifest

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
    "Process",
    "StoreOptions",
    "extract_features",
    "load_engine",
    "merge_prompts",
    "resolve_model_folder",
]
