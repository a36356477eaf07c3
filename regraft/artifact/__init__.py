"""The saved model: a folder with `model.safetensors` and `config.json`, plain data in and out."""

from regraft.artifact.checks import TensorSpec
from regraft.artifact.load import SavedModel, load_model, read_config
from regraft.artifact.save import save_model
from regraft.artifact.schema import (
    ArchitectureRecord,
    Config,
    FeaturesRecord,
    IntervalRecord,
    PreprocessRecord,
    ScoreRecord,
    ScoresRecord,
    SealedConfig,
    TrainingRecord,
    check_class_names,
)

__all__ = [
    "ArchitectureRecord",
    "Config",
    "FeaturesRecord",
    "IntervalRecord",
    "PreprocessRecord",
    "SavedModel",
    "ScoreRecord",
    "ScoresRecord",
    "SealedConfig",
    "TensorSpec",
    "TrainingRecord",
    "check_class_names",
    "load_model",
    "read_config",
    "save_model",
]
