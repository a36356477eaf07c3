"""Where the time of a training step goes, for a few networks: which operations, and how far from the processor's peak.

    python bench/profile_steps.py [--backbones A,B] [--batch N]

Random weights, 224 pixels, whole networks, the precision that regraft chooses. The peak is what a square matrix product in bf16
and fp32 reaches on this machine, measured here; operations are counted by torch's own counter over the answers, and taken three
times for a step.
"""

import argparse
import json
import time
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from regraft.backbone.load import load_backbone
from regraft.progress import Silent
from regraft.train.faster import rewritten
from regraft.train.learning import channels_last
from regraft.train.precision import StepPrecision
from regraft.train.tuning import tune

BACKBONES = ("efficientnet_lite0", "torchvision:resnet18", "timm:convnext_tiny", "timm:vit_small_patch16_224")


def peak(dtype: torch.dtype, side: int = 4096) -> float:
    """Operations per second of a square matrix product."""
    a, b = (torch.randn(side, side, dtype=dtype) for _ in range(2))
    a @ b
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def one(name: str, batch: int, peaks: dict[str, float]) -> dict[str, Any]:
    """The step of one network."""
    network = load_backbone(name, weights="none").module.requires_grad_(True)
    channels_last(network)
    pixels = torch.randn(batch, 224, 224, 3).permute(0, 3, 1, 2)
    targets = torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)

    def step(precision: StepPrecision, *, move: bool = True) -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.computing("cpu"):
            logits = network(pixels)
        nn.functional.cross_entropy(logits.float(), targets).backward()
        if move:
            optimizer.step()

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(pixels)
    with rewritten(network, (pixels[:2],)) as convs:

        def trial(precision: StepPrecision) -> None:
            for path, conv in convs.items():
                conv.exact = path in precision.exact
            step(precision, move=False)

        chosen = tune("auto", trial, convs, (pixels[:8],), network, device="cpu", memory=None, progress=Silent())
        for path, conv in convs.items():
            conv.exact = path in chosen.exact
        step(chosen)
        start = time.perf_counter()
        for _ in range(3):
            step(chosen)
        seconds = (time.perf_counter() - start) / 3
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            step(chosen)
    # The gradients take two passes' worth; torch's counter does not know the groups of a convolution's gradients.
    rate = 3 * counter.get_total_flops() / seconds
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {
        "backbone": name,
        "precision": chosen.name,
        "images_per_s": round(batch / seconds, 1),
        "share_of_peak": round(rate / peaks["bf16" if chosen.half else "fp32"], 3),
        "operations": {event.key: round(event.self_cpu_time_total / total, 3) for event in events[:8]},
    }


def main() -> None:
    """One line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    peaks = {"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    print(json.dumps({"peak, 10^9 operations/s": {name: round(value / 1e9) for name, value in peaks.items()}}), flush=True)
    for name in options.backbones.split(","):
        print(json.dumps(one(name, options.batch, peaks)), flush=True)


if __name__ == "__main__":
    main()
