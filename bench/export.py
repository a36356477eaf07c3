"""Exported files beside the networks that they came from: labels, probabilities, speed, and what int8 costs.

    python bench/run.py --only export

Six backbones of different families: one with the weights that come with regraft, the others with random weights, whose
answers are as good a test of a file as any, small where that saves time.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures import Bench, Row, fit, number, regraft
from measure import Spread, spread

BACKBONES: dict[str, tuple[str, ...]] = {
    "efficientnet_lite0": (),
    "torchvision:resnet18": ("--weights", "none", "--size", "128"),
    "torchvision:mobilenet_v3_small": ("--weights", "none", "--size", "128"),
    "timm:convnext_atto": ("--weights", "none", "--size", "128"),
    "timm:deit_tiny_patch16_224": ("--weights", "none"),
    "timm:regnetx_002": ("--weights", "none", "--size", "128"),
}
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
FITTED = ("clipart", "fashion2k")
# Images of every kind and size that can be decoded, answered by the run on clipart.
ODD = "odd-images"


def exported(run: Path, to: str, images: Path, *flags: str) -> dict[str, Any]:
    """`regraft export` in a fresh process: its line. Raises BenchmarkFailed where the file answers otherwise."""
    out = run / f"bench{'-int8' * ('--int8' in flags)}{'.onnx' if to == 'onnx' else '.xml'}"
    words = ("export", run, "--to", to, "--images", images, "--out", out, "--overwrite", "--json", *flags)
    return regraft(*words).line


def trials(bench: Bench) -> Iterator[tuple[str, Path, Path]]:
    """Backbone, run and the images to try its exports on."""
    backbones = list(BACKBONES)[:1] if bench.quick else list(BACKBONES)
    for name in backbones:
        for data in FITTED:
            folder = bench.set(data)
            fit(bench, folder, "export", "--backbone", name, *BACKBONES[name])
            run = bench.scratch / "runs" / folder.name
            yield name, run, folder
            if data == "clipart":
                yield name, run, bench.data / ODD


def exports(bench: Bench) -> list[Row]:
    """Files for ONNX Runtime and OpenVINO beside eager fp32, for six backbones on the test images of three sets; int8 of one.

    Speed is from raw pixels to answers, eight images at a time, in turns.
    """
    found: dict[str, list[dict[str, Any]]] = {to: [] for to in RUNTIMES}
    whole: dict[str, list[dict[str, Any]]] = {to: [] for to in RUNTIMES}
    for name, run, images in trials(bench):
        for to in RUNTIMES:
            found[to].append(exported(run, to, images))
            if name == next(iter(BACKBONES)) and images.name != ODD:
                whole[to].append(exported(run, to, images, "--int8"))
    return [row for to in RUNTIMES for row in (*_alike(RUNTIMES[to], found[to]), *_whole(RUNTIMES[to], whole[to]))]


def _alike(runtime: str, lines: list[dict[str, Any]]) -> list[Row]:
    images = sum(int(line["images"]) for line in lines)
    same = [100 * line["same_labels"] / line["images"] for line in lines]
    gaps = [line["largest_difference"] for line in lines]
    predicted = [100 * line["as_predicted"] / line["images"] for line in lines]
    also = {"answers": f"{images:,}", "as `regraft predict` has them": f"at least {number(min(predicted))} %"}
    return [
        Row(
            what=f"{runtime}: labels as in eager fp32, the worst export",
            measured=_worst(same, min),
            at_least=100,
            unit=" %",
            also=also,
        ),
        Row(what=f"{runtime}: probabilities' largest distance from eager fp32's", measured=_worst(gaps, max), at_most=1e-3),
        Row(
            what=f"{runtime}: images per second as a multiple of eager fp32's",
            measured=spread([line["speed"] for line in lines]),
            at_least=2,
        ),
    ]


def _worst(values: list[float], pick: Callable[[list[float]], float]) -> Spread:
    return replace(spread(values), centre=pick(values))


def _whole(runtime: str, lines: list[dict[str, Any]]) -> list[Row]:
    costs = [line["int8"] for line in lines]
    words = [f"{100 * c['difference'][end]:+.1f}" for c in costs for end in ("value", "low", "high")]
    points = "; ".join(f"{words[i]} ({words[i + 1]} to {words[i + 2]})" for i in range(0, len(words), 3))
    also = {"accuracy less fp32's, points with interval": points}
    return [
        Row(
            what=f"{runtime}, int8: images per second as a multiple of the same file's in fp32",
            measured=spread([float(cost["speed"]) for cost in costs]),
            at_least=1,
            also=also,
        )
    ]
