"""How text becomes tensors: the backbone, batching, the feature store, and extraction."""

from armorm.features.backbone import Backbone, resolve_model_folder
from armorm.features.extraction import extract_features
from armorm.features.running import BackboneFeatures
from armorm.features.store import FeatureStore, Manifest

__all__ = [
    "Backbone",
    "BackboneFeatures",
    "FeatureStore",
    "Manifest",
    "extract_features",
    "resolve_model_folder",
]
