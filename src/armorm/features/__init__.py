"""How text becomes tensors: the backbone, batching, the feature store, and extraction."""

from armorm.features.backbone import Backbone, resolve_model_folder
from armorm.features.extraction import ExtractionSummary, extract_features
from armorm.features.processes import Process
from armorm.features.running import BackboneFeatures
from armorm.features.store import FeatureStore, Manifest

__all__ = [
    "Backbone",
    "BackboneFeatures",
    "ExtractionSummary",
    "FeatureStore",
    "Manifest",
    "Process",
    "extract_features",
    "resolve_model_folder",
]
