"""A head of your own: a 1x1 convolution on the feature map, or layers on the pooled features.

python examples/own_head.py [DATA] [EPOCHS] [PIXELS]

On the command line: regraft fit DATA --head module:FILE:FUNCTION
"""

import sys
from pathlib import Path

from torch import nn

import regraft


def convolution(in_features: int, classes: int) -> nn.Module:
    """nn.Conv2d(512, 10, kernel_size=1) for a ResNet-18 and ten classes: linear at every position, then averaged."""
    return nn.Conv2d(in_features, classes, kernel_size=1)


def layers(in_features: int, classes: int) -> nn.Module:
    """A hidden layer with batch normalisation."""
    return nn.Sequential(nn.Linear(in_features, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, classes))


data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 30
size = int(sys.argv[3]) if len(sys.argv) > 3 else None

# The first is a convex problem, which is solved; the second is trained, and has to beat the solved head.
for strategy in (regraft.Head(module=convolution), regraft.Head(module=layers, training=regraft.Training(epochs=epochs))):
    run = regraft.fit(data, out="runs/own-head", overwrite=True, strategy=strategy, size=size)
    print(f"{strategy.module.__name__}: {100 * run.summary.test_scores.accuracy.value:.1f} % of the test images right")
    print(*(f"  {note}" for note in run.summary.notes if "head" in note), sep="\n")

history = run.summary.history
print(f"  validation: {100 * history.accuracy.value:.1f} %, solved head {100 * history.solved.value:.1f} %")
# A run holds weights, no code: whoever loads it names the head again.
print(regraft.load(run.folder, head=layers))
