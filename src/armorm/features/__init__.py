"""How text becomes tensors: the backbone, batching, the feature store, and extraction."""

from armorm.features.backbone import Backbone, BackboneFeatures, resolve_model_folder
from armorm.features.engines import Engine, FeatureBackbone, load_engine
from armorm.features.extraction import extract_features
from armorm.features.store import FeatureStore, Manifest

__all__ = [
    "Backbone",
    "BackboneFeatures",
    "Engine",
    "FeatureBackbone",
    "FeatureStore",
    "Manifest",
    "extract_features",
    "load_engine",
    "resolve_model_folder",
]
