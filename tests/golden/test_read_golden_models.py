"""Saved models written by each format version there was; they must load for ever.

The files are never made again: a format that changes gets a new folder beside these and an entry in `load.MIGRATIONS`.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from faults.mkmodels import pixel_fields

from regraft.artifact import Config, TensorSpec, load_model, save_model
from regraft.artifact.load import MIGRATIONS
from regraft.artifact.schema import FORMAT_VERSION

HERE = Path(__file__).parent
# Of the files as they were first written: an editor or a checkout that changes line ends shows here, by name.
WRITTEN = {
    "model-v1/config.json": "cd82a1c17a405b274c521770a29a8e3f995458c474c1ee10aaef2d43776b244c",
    "model-v1/model.safetensors": "ed9547ad980daec9656d75ff3096b6f3a05aa592434cef81e5578b6fdd1b74f6",
    "model-v2/config.json": "26a0ab285dc110e5fe0713d3df931e5eb1176864ebe47384c589db5affd0fa2e",
    "model-v2/model.safetensors": "ed9547ad980daec9656d75ff3096b6f3a05aa592434cef81e5578b6fdd1b74f6",
    "model-v3/config.json": "15fd41a6eacebe3f7204fa1ea23cafd55cf4a85d0c2cb4b0f390e41952362eb5",
    "model-v3/model.safetensors": "ed9547ad980daec9656d75ff3096b6f3a05aa592434cef81e5578b6fdd1b74f6",
    "model-v4/config.json": "553e4e2579b4eaf9cddfab82d6febb1729bf624e95af83fcf8eff5880f29912f",
    "model-v4/model.safetensors": "b778d70075c257c9471ea3ef2a94218e1c344d22a8abe04a2853366f8ed7fcc7",
    "model-v5/config.json": "1c29fc2a29fe2a9e74f3cc146b0392f8d7eb108cc891be3e48d10c2bb474525f",
    "model-v5/model.safetensors": "2c3bd191a9bad2b58ac5cf195d21b2e6c4ae6a180021d3572587252c20e74ead",
    "model-v6/config.json": "5462f5fd227b594092ecf9612eece0e6145bfac155a1ee714e10e2d654d414e2",
    "model-v6/model.safetensors": "b778d70075c257c9471ea3ef2a94218e1c344d22a8abe04a2853366f8ed7fcc7",
}


def specs(config: Config) -> dict[str, TensorSpec]:
    record = config.novelty
    novelty = {} if record is None else {"axes": (record.axes, sum(record.blocks)), "known": (record.known, record.axes)}
    return {f"novelty.{name}": TensorSpec(shape) for name, shape in novelty.items()} | {
        "backbone.bn.num_batches_tracked": TensorSpec((), "int64"),
        "backbone.conv.weight": TensorSpec((2, 3, 1, 1)),
        "head.bias": TensorSpec((len(config.classes),)),
        "head.weight": TensorSpec((len(config.classes), config.features.width)),
    }


@pytest.mark.parametrize("name", WRITTEN)
def test_the_golden_files_are_as_they_were_written(name: str) -> None:
    assert hashlib.sha256((HERE / name).read_bytes()).hexdigest() == WRITTEN[name]


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_every_format_version_still_loads(version: int) -> None:
    loaded = load_model(HERE / f"model-v{version}", expected=specs)
    of_pixels = version == 5
    assert loaded.config.task == ("saliency" if of_pixels else "classification")
    names = ("background", "object") if of_pixels else ("cat", "dog", "Écureuil", "../<script>")
    assert loaded.config.classes == names
    assert loaded.config.architecture.name == "efficientnet_lite0"
    assert loaded.config.architecture.head_path is None
    # What a format did not know of yet is as it was then.
    assert loaded.config.mirrored == (version >= 3)
    assert loaded.config.temperature == (1.25 if version >= 4 else 1.0)
    assert loaded.config.features.pooling == ("quarters" if version == 6 else "whole")
    assert loaded.config.abstain.confidence == (0.625 if version >= 4 else None)
    assert (loaded.config.novelty is not None) == (version in (4, 6))
    assert (loaded.config.pixels is not None) == of_pixels
    assert loaded.config.preprocess.crop_share == 0.875
    assert loaded.config.training.l2 == 1e-05
    if of_pixels:
        assert loaded.config.features.kind == "maps"
        assert loaded.config.pixels == pixel_fields()["pixels"]
    else:
        assert loaded.config.scores.test is not None
        assert loaded.config.scores.test.accuracy.low == 0.81
    assert loaded.tensors["backbone.bn.num_batches_tracked"] == 7
    assert np.float32(loaded.tensors["head.bias"][0]).tobytes().hex() == "d249673f"
    assert bool(loaded.notes) == (version < FORMAT_VERSION)


def test_there_is_a_migration_and_a_golden_model_for_every_older_version() -> None:
    assert sorted(MIGRATIONS) == list(range(1, FORMAT_VERSION))
    assert {path.name for path in HERE.glob("model-v*")} == {f"model-v{number}" for number in range(1, FORMAT_VERSION + 1)}


def test_the_current_format_is_still_written_alike(tmp_path: Path) -> None:
    # A model of each task, in the newest format once it was loaded.
    save_model(load_model(HERE / "model-v5", expected=specs), tmp_path / "pixels")
    again = load_model(tmp_path / "pixels", expected=specs)
    assert not again.notes
    assert again.config.pixels is not None
    newest = HERE / f"model-v{FORMAT_VERSION}"
    save_model(load_model(newest, expected=specs), tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (newest / "config.json").read_bytes()
