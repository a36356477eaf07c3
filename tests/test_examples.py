"""Every script in examples/ does what it shows, on a few of the demo drawings."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regraft.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
# What they are made of, and how the demo images came about.
NOT_SCRIPTS = {"make_clipart", "own_nets"}
# They ask exported files: tests/test_export_models.py runs them.
NOT_SCRIPTS |= {"use_onnx", "use_openvino", "use_safetensors", "use_torch"}
SCRIPTS = {path.stem for path in EXAMPLES.glob("*.py")} - NOT_SCRIPTS
DRAWINGS = "DRAWINGS"
# What each is called with to be quick, and what it has to say.
CALLS: dict[str, tuple[list[str], list[str]]] = {
    "tutorial_head": (
        [DRAWINGS, "none"],
        ["trainable layers: fc (1,539", "test accuracy", "Linear(in_features=512, out_features=3"],
    ),
    "go_deeper": ([DRAWINGS, "1", "64"], ["head ", "partial:2", "full ", "3,381,256 of 3,381,256 parameters"]),
    "unfreeze_more": ([DRAWINGS, "1", "48"], ["head: ", "partial:2, from there", "full, from there", "trained was the whole"]),
    "choose_strategy": ([DRAWINGS, "0.05", "48"], ["rule of thumb for 24 images", "head ", "full ", "kept: "]),
    "whole_or_last": (
        [DRAWINGS, "torchvision:resnet18", "none", "1", "48"],
        ["full ", "partial:1 ", "trained: layer4, fc"],
    ),
    "small_rates": (
        [DRAWINGS, "1", "48", "2"],
        ["full, phase 1, epoch 1", "gradual:1, phase 2, epoch 2", "1.0e-03 (head) to ", "% of the test images"],
    ),
    "no_tuning": ([DRAWINGS, "1", "48", "64"], ["32 images in a step", "64 images in a step", "the solved head"]),
    "custom_layers": ([DRAWINGS, "2"], ["own head on", "frozen", "from scratch", "python:SmallNetwork, 3 classes"]),
    "cifar10": ([DRAWINGS, "none", "2", "32"], ["head: ", "epoch 2: loss", "rate 0.001", "full: ", "3 classes"]),
    "use_pretrained": ([f"{DRAWINGS}/food/banana.png"], ["banana.png", "%  banana"]),
    "own_head": ([DRAWINGS, "2", "64"], ["convolution:", "layers:", "solved to its optimum", "solved head"]),
    "segment": ([DRAWINGS, "small", "1", "64"], ["255 -> object", "the probe: IoU", "decoder small: IoU", "test images: IoU"]),
    "hub_folder": ([DRAWINGS, "2"], ["after 2 epochs", "hub:hub:small_network, 3 classes"]),
    "look_inside": (["torchvision:resnet18", "none"], ["5,130 of 11,181,642", "layer4", "head: fc (linear, 512 features)"]),
    "find_heads": (["resnet18", "mobilenet_v3_small", "inception_v3"], [" fc ", " classifier.3 ", " AuxLogits.fc "]),
}


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("few") / "drawings"
    for name in ("animals", "food", "plants"):
        (root / name).mkdir(parents=True)
        for path in sorted((EXAMPLES / "clipart" / name).iterdir())[:10]:
            shutil.copy(path, root / name)
    return root


@pytest.fixture(scope="module", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache for all scripts: several look at the same features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_script_does_what_it_shows(
    name: str, drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = CALLS[name]
    monkeypatch.chdir(tmp_path)
    # As `python examples/NAME.py` has it: the script's folder comes first.
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *(argument.replace(DRAWINGS, str(drawings)) for argument in arguments)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert not [word for word in words if word not in said], said


def test_own_nets_are_named_on_the_command_line(
    drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    fit = ["fit", str(drawings), "--size", "32", "--epochs", "2", "--device", "cpu", "--json"]
    network = ["--backbone", "module:examples.own_nets:small_network", "--strategy", "scratch"]
    assert main([*fit, *network, "--out", str(tmp_path / "scratch")]) == 0
    head = ["--head", "module:examples.own_nets:two_layers"]
    assert main([*fit, *head, "--out", str(tmp_path / "head")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "head"), str(drawings / "food" / "banana.png"), "--json", *head]) == 0


def test_a_script_is_run_as_its_first_lines_say(drawings: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "use_pretrained.py"), str(drawings / "food" / "banana.png")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    assert "banana" in result.stdout


def test_every_script_is_tested_and_says_how_it_is_run() -> None:
    assert set(CALLS) == SCRIPTS
    for name in SCRIPTS:
        assert f"python examples/{name}.py" in (EXAMPLES / f"{name}.py").read_text()
