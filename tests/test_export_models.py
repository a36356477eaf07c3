"""Exported files answer as the run does, say so only after they have, and need no regraft."""

import copy
import json
import runpy
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import COLOURS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image

import regraft
from regraft.cli.export import notes_of, pairs_of
from regraft.cli.main import main
from regraft.data.preprocess import Preprocess, to_input_size
from regraft.errors import DataUnusable, ExportDiffers, OutputExists, UsageError
from regraft.exports import exporting, resample
from regraft.exports.formats import Recorded, ask_onnx, ask_openvino
from regraft.exports.outcome import Exported
from regraft.exports.resample import Resample
from regraft.exports.verify import same_labels
from regraft.fitted import Fitted

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BACKBONE = "timm:test_efficientnet"  # of 0.4 million parameters
SIDE = st.one_of(st.integers(1, 9), st.integers(20, 80), st.integers(200, 500))


def draw(path: Path, colour: tuple[int, int, int], size: tuple[int, int], seed: int) -> None:
    """A noisy picture of one colour; smooth enough that JPEG keeps it."""
    noise = np.random.default_rng(seed).normal(0, 60, (8, 8, 3))
    picture = Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several sizes and two formats, and a run on them."""
    root = tmp_path_factory.mktemp("export")
    sizes = [(40, 40), (90, 60), (50, 150), (33, 47), (64, 64), (200, 100), (70, 300), (1, 30), (400, 420), (65, 63)]
    for name, colour in COLOURS.items():
        for index, size in enumerate(sizes):
            draw(root / "photos" / name / f"{index}.{'jpg' if index > 7 else 'png'}", colour, size, index)
    regraft.fit(
        root / "photos", out=root / "run", backbone=BACKBONE, weights="none", size=64, cache=root / "cache", device="cpu"
    )
    return root


@pytest.fixture(scope="module")
def fitted(home: Path) -> Fitted:
    run = regraft.load(home / "run")
    assert isinstance(run, Fitted)
    return run


@pytest.fixture(scope="module", autouse=True)
def _recorded_once() -> Iterator[None]:
    """Recording takes most of the time of an export, and gives the same for each format."""
    programs: dict[Path | None, Any] = {}
    real = exporting.program_of

    def program_of(run: Fitted) -> Any:
        return programs.setdefault(run.folder, programs.get(run.folder) or real(run))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "program_of", program_of)
        patch.setattr(exporting, "to_onnx", cache(exporting.to_onnx))
        yield


@pytest.fixture(scope="module")
def onnx_file(home: Path, fitted: Fitted) -> Exported:
    return regraft.export(fitted, to="onnx", out=home / "model.onnx", images=home / "photos")


@pytest.fixture(scope="module")
def openvino_file(home: Path, fitted: Fitted) -> Exported:
    return regraft.export(fitted, to="openvino", out=home / "model.xml", images=home / "photos")


@pytest.fixture(scope="module")
def torch_file(home: Path, fitted: Fitted) -> Exported:
    return regraft.export(fitted, to="torch", out=home / "model.pt2", images=home / "photos")


def by_pillow(raw: np.ndarray[Any, Any], preprocess: Preprocess) -> np.ndarray[Any, Any]:
    return to_input_size(Image.fromarray(raw), preprocess)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    size=st.tuples(SIDE, SIDE),
    wanted=st.sampled_from([(32, 32), (24, 40), (40, 24)]),
    fit=st.sampled_from(["crop", "squash", "pad"]),
    kind=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    share=st.sampled_from([1.0, 0.875, 0.95]),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 1000),
)
def test_resizing_is_pillows_bit_for_bit(
    size: tuple[int, int], wanted: tuple[int, int], fit: Any, kind: Any, share: float, channels: int, seed: int
) -> None:
    preprocess = Preprocess(
        height=wanted[0],
        width=wanted[1],
        fit=fit,
        crop_share=share,
        interpolation=kind,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        background=(10, 200, 30),
    )
    raw = np.random.default_rng(seed).integers(0, 256, (*size, max(3, channels)), dtype=np.uint8)
    with torch.inference_mode():
        ours = Resample(preprocess)(torch.from_numpy(raw)[None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(ours, by_pillow(raw, preprocess))


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_extreme_shapes_are_resized_alike(fit: Any) -> None:
    preprocess = _usual(fit)
    for size in [(1, 5000), (5000, 1), (2, 3), (20_000, 3)]:
        raw = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        with torch.inference_mode():
            ours = Resample(preprocess)(torch.from_numpy(raw)[None])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(ours, by_pillow(raw, preprocess)), size


def test_float32_is_enough_to_resize_as_pillow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO has no float64: nearly every level is the same all the same."""
    monkeypatch.setattr(resample, "_DOUBLE", torch.float32)
    levels = wrong = 0
    for height, width in [(256, 159), (256, 256), (128, 256), (135, 138), (700, 1003), (1, 5000)]:
        # Two colours: where they meet, many levels lie exactly between two whole ones.
        raw = np.where(np.random.default_rng(1).random((height, width, 1)) < 0.5, 255, [20, 90, 160]).astype(np.uint8)
        with torch.inference_mode():
            ours = Resample(_usual("crop"))(torch.from_numpy(raw)[None])[0].permute(1, 2, 0).numpy()
        difference = np.abs(ours - by_pillow(raw, _usual("crop")))
        assert difference.max() <= 1
        levels, wrong = levels + difference.size, wrong + np.count_nonzero(difference)
    assert wrong < 1e-4 * levels


def _usual(fit: Any) -> Preprocess:
    three = (0.5,) * 3
    return Preprocess(
        height=224, width=224, fit=fit, crop_share=1.0, interpolation="bicubic", mean=three, std=three, background=(1, 2, 3)
    )


def test_an_onnx_file_answers_as_the_run_does(onnx_file: Exported, fitted: Fitted, home: Path) -> None:
    assert onnx_file.verified
    assert onnx_file.on == "test images"
    assert onnx_file.same_labels == onnx_file.images == 6
    assert onnx_file.largest_difference < 1e-5
    assert onnx_file.speed > 0
    assert onnx_file.bytes == onnx_file.path.stat().st_size
    ask = ask_onnx(onnx_file.path)
    for path in sorted((home / "photos" / "blue").glob("*.png")):
        raw = np.asarray(Image.open(path))
        shares, distance = ask(raw[np.newaxis])
        answer = fitted.predict([path], device="cpu")[0]
        assert fitted.classes[int(shares[0].argmax())] == answer.top[0][0]
        assert shares[0].max() == pytest.approx(answer.top[0][1], abs=1e-5)
        assert distance[0] == pytest.approx(answer.distance, abs=1e-4)


def test_an_openvino_file_answers_as_the_run_does(openvino_file: Exported, onnx_file: Exported) -> None:
    assert openvino_file.same_labels == openvino_file.images == 6
    assert openvino_file.largest_difference < 1e-3
    files = openvino_file.path, openvino_file.path.with_suffix(".bin")
    assert openvino_file.bytes == sum(file.stat().st_size for file in files)
    rng = np.random.default_rng(0)
    one, other = ask_openvino(openvino_file.path), ask_onnx(onnx_file.path)
    # Again and again with other sizes and numbers: what an earlier call left behind must not show.
    for count, height, width in [(1, 90, 70), (3, 90, 70), (2, 200, 50), (1, 200, 50), (1, 1, 1), (2, 64, 64)]:
        raw = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        assert np.abs(one(raw)[0] - other(raw)[0]).max() < 1e-3


def test_a_torch_program_answers_as_the_run_does(torch_file: Exported) -> None:
    assert torch_file.same_labels == torch_file.images == 6
    assert torch_file.largest_difference < 1e-5


def test_files_say_what_they_are(
    onnx_file: Exported, openvino_file: Exported, torch_file: Exported, fitted: Fitted, home: Path
) -> None:
    import openvino

    props = {entry.key: entry.value for entry in onnx.load(onnx_file.path).metadata_props}
    model = openvino.Core().read_model(openvino_file.path)
    with zipfile.ZipFile(torch_file.path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("metadata.json")]
        assert json.loads(archive.read(name)) == props
    for key, value in props.items():
        assert model.get_rt_info(["regraft", key]).astype(str) == value
    assert json.loads(props["classes"]) == list(COLOURS)
    assert json.loads(props["distance_threshold"]) == fitted.thresholds.distance
    assert json.loads(props["confidence_threshold"]) is None
    assert "64 x 64" in json.loads(props["preprocessing"])
    # Nothing of the place where they were made.
    for file in (onnx_file.path, openvino_file.path):
        assert str(EXAMPLES.parent).encode() not in file.read_bytes()
        assert str(home).encode() not in file.read_bytes()


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torch"])
def test_scripts_use_them_without_regraft(
    kind: str,
    onnx_file: Exported,
    openvino_file: Exported,
    torch_file: Exported,
    fitted: Fitted,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = {"onnx": onnx_file, "openvino": openvino_file, "torch": torch_file}[kind].path
    photos = [str(home / "photos" / name / "4.png") for name in COLOURS]
    script = EXAMPLES / f"use_{kind}.py"
    assert f"python examples/use_{kind}.py" in script.read_text()
    assert "regraft" not in script.read_text().split('"""')[2].replace('["regraft"', "")
    monkeypatch.setattr(sys, "argv", [script.name, str(file), *photos])
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    for line, answer in zip(said, fitted.predict(photos, device="cpu"), strict=True):
        assert line.startswith(f"{answer.path}: {answer.top[0][0]} {100 * answer.top[0][1]:.1f} %")


def test_weights_load_into_the_librarys_network(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = regraft.fit(
        home / "photos",
        out=home / "last",
        backbone=BACKBONE,
        weights="none",
        size=64,
        cache=home / "cache",
        device="cpu",
        strategy=regraft.Head(features="last"),
    )
    assert isinstance(run, Fitted)
    found = regraft.export(run, to="safetensors", images=home / "photos")
    assert found.path == home / "last" / "last.safetensors"
    assert found.same_labels == found.images == 6
    assert found.largest_difference < 1e-5
    photo = str(home / "photos" / "blue" / "4.png")
    monkeypatch.setattr(sys, "argv", ["use_safetensors.py", str(found.path), photo])
    runpy.run_path(str(EXAMPLES / "use_safetensors.py"), run_name="__main__")
    (name, probability) = run.predict([photo], device="cpu")[0].top[0]
    assert capsys.readouterr().out == f"{photo}: {name} {100 * probability:.1f} %\n"


def test_int8_says_what_it_costs(home: Path, fitted: Fitted) -> None:
    found = regraft.export(fitted, to="onnx", int8=True, out=home / "small.onnx", images=home / "photos")
    assert found.precision == "int8"
    assert found.int8 is not None
    assert found.int8.before.n == found.int8.after.n == found.images == 6
    assert found.int8.difference.value == pytest.approx(found.int8.after.value - found.int8.before.value)
    assert len(found.int8.changed) == found.images - found.same_labels
    assert found.bytes < 0.75 * found.int8.fp32_bytes  # the head, which stays as it is, is a third of so small a network
    assert 0 < found.largest_difference < 0.5
    nodes = onnx.load(found.path).graph.node
    whole = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    assert any(whole.intersection(node.input) for node in nodes if node.op_type == "Conv")
    # The head alone is such a layer here, and reads what 8 bits cannot hold.
    heads = [node for node in nodes if node.op_type in ("Gemm", "MatMul") and any("head" in name for name in node.input)]
    assert heads
    assert not any(whole.intersection(node.input) for node in heads)
    assert [path.name for path in home.glob("*small*")] == ["small.onnx"]


def test_an_export_that_answers_otherwise_is_refused(home: Path, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    real = exporting.write_onnx

    def tampered(recorded: Recorded, metadata: Any, path: Path) -> None:
        wrong = copy.deepcopy(recorded.proto)
        (bias,) = [tensor for tensor in wrong.graph.initializer if tensor.name.endswith("head.bias") and tensor.dims == [3]]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([900, 0, 0]), bias.name))
        real(replace(recorded, proto=wrong), metadata, path)

    monkeypatch.setattr(exporting, "write_onnx", tampered)
    before = set(home.iterdir())
    with pytest.raises(ExportDiffers, match="amber") as caught:
        regraft.export(fitted, to="onnx", out=home / "wrong.onnx", images=home / "photos")
    assert caught.value.exit_code == 4
    assert "blue/" in caught.value.got
    sheet = home / "wrong.differences.png"
    assert set(home.iterdir()) - before == {sheet}
    assert Image.open(sheet).width > 90


def test_only_classes_that_are_equally_likely_may_change_places() -> None:
    ours = np.array([[0.5, 0.5, 0.0], [0.6, 0.4, 0.0], [0.4, 0.2, 0.4]])
    theirs = np.array([[0.5 - 1e-7, 0.5 + 1e-7, 0.0], [0.4999, 0.5001, 0.0], [0.3999999, 0.2, 0.4000001]])
    assert same_labels(theirs, ours, multi_label=False) == 2
    assert (
        same_labels(np.array([[0.5000001, 0.1], [0.50001, 0.1]]), np.array([[0.5, 0.1], [0.4999, 0.1]]), multi_label=True) == 1
    )
    assert same_labels(np.array([[np.nan, 0.1]]), np.array([[np.nan, 0.1]]), multi_label=False) == 0


def test_images_that_moved_are_asked_for(home: Path, fitted: Fitted, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--images DIR"):
        regraft.export(fitted, to="torch", out=tmp_path / "a.pt2")
    with pytest.raises(UsageError, match="no such folder"):
        regraft.export(fitted, to="torch", out=tmp_path / "a.pt2", images=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnusable, match="none under"):
        regraft.export(fitted, to="torch", out=tmp_path / "a.pt2", images=tmp_path / "empty")
    assert not (tmp_path / "a.pt2").exists()


def test_images_are_known_by_their_content_or_are_any(home: Path, tmp_path: Path) -> None:
    from regraft.exports.held_out import find_trial

    kept = find_trial(home / "run", home / "photos")
    assert (len(kept.images), len(kept.train), kept.lost, kept.labelled) == (6, 24, 0, True)
    for index, sample in enumerate(kept.images[:4]):
        shutil.copy(sample.path, tmp_path / f"renamed-{index}{sample.path.suffix}")
    moved = find_trial(home / "run", tmp_path)
    assert [sample.name for sample in moved.images] == [sample.name for sample in kept.images[:4]]
    assert (moved.lost, moved.on) == (2, "test images")
    for path in tmp_path.iterdir():
        path.unlink()
    draw(tmp_path / "other.png", (1, 2, 3), (50, 50), 0)
    other = find_trial(home / "run", tmp_path)
    assert (len(other.images), other.labelled) == (1, False)


def test_what_cannot_be_exported_is_said_before_any_work(home: Path, fitted: Fitted, tmp_path: Path) -> None:
    for wanted, options in {
        "onnx, openvino, torch, safetensors": {"to": "keras"},
        "--int8 with --to onnx or openvino": {"to": "torch", "int8": True},
        "ends in .onnx": {"to": "onnx", "out": tmp_path / "a.pt2"},
        "--features last": {"to": "safetensors"},
    }.items():
        with pytest.raises(UsageError, match=wanted):
            regraft.export(fitted, **options)  # type: ignore[arg-type]
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(OutputExists, match="is there already"):
        regraft.export(fitted, to="onnx", out=tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "mine"


def test_a_missing_package_is_named(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft import needs

    monkeypatch.setattr(needs, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r"onnxscript.*\n.*pip install 'regraft\[export\]'"):
        regraft.export(fitted, to="onnx")


def test_the_command_exports_and_says_what_was_tried(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(home / "run"), "--to", "onnx", "--out", str(tmp_path / "m.onnx"), "--images", str(home / "photos")]
    assert main([*command, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["same_labels"], line["images"], line["verified"], line["to"]) == (6, 6, True, "onnx")
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_file_that_was_not_tried_says_so(fitted: Fitted, tmp_path: Path) -> None:
    found = regraft.export(fitted, to="torch", out=tmp_path / "m.pt2", verify=False)
    assert found.path.exists()
    assert (found.verified, found.images, found.speed) == (False, 0, 0.0)
    assert "NOT VERIFIED" in notes_of(found)[0]
    assert ("labels", "NOT VERIFIED: tried on no image") in pairs_of(found)
