"""ResNet-18 with a new `fc` and everything else frozen: the job of most tutorials, and its weights for plain torchvision.

python examples/tutorial_head.py [DATA] [WEIGHTS]      WEIGHTS: a name, a file, or none (random; needs no download)
"""

import sys
from pathlib import Path

import torch
import torchvision

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
weights = sys.argv[2] if len(sys.argv) > 2 else None

# "last": the head reads what `fc` read, so that the result is torchvision's own network.
run = regraft.fit(
    data,
    out="runs/tutorial-head",
    overwrite=True,
    backbone="torchvision:resnet18",
    weights=weights,
    strategy=regraft.Head(features="last"),
)
what = regraft.inspect("torchvision:resnet18", weights="none", strategy="head", classes=len(run.classes))
print("trainable layers:", *(f"{part.name} ({part.trainable:,} parameters)" for part in what.parts if part.trainable))
accuracy = run.summary.test_scores.accuracy
print(f"test accuracy {100 * accuracy.value:.1f} %, 95 % interval {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %")

torch.save(run.to_torch().state_dict(), "runs/tutorial-head/resnet18.pth")
plain = torchvision.models.resnet18(num_classes=len(run.classes))
plain.load_state_dict(torch.load("runs/tutorial-head/resnet18.pth", weights_only=True))
print("torchvision's resnet18 with", plain.fc)
