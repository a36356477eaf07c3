"""The user's own layers and network: as a head, as a frozen backbone, and trained from scratch, by the same three lines.

python examples/custom_layers.py [DATA] [EPOCHS]
"""

import sys
from pathlib import Path

from own_nets import SmallNetwork, two_layers

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 20
network = regraft.Own(module=SmallNetwork(), input_shape=(3, 64, 64))

runs = {
    "own head on EfficientNet-Lite0": regraft.fit(
        data,
        out="runs/own-head",
        overwrite=True,
        strategy=regraft.Head(module=two_layers, training=regraft.Training(epochs=epochs)),
    ),
    "own network with random weights, frozen": regraft.fit(
        data, out="runs/own-frozen", overwrite=True, backbone=network, strategy=regraft.Head()
    ),
    "own network from scratch": regraft.fit(
        data, out="runs/own-scratch", overwrite=True, backbone=network, strategy=regraft.Scratch(epochs=epochs)
    ),
}
for name, run in runs.items():
    accuracy = run.summary.test_scores.accuracy
    print(f"{name:42} {100 * accuracy.value:5.1f} %  (95 % interval {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %)")

# A saved run holds no code: whoever loads it names the network, or the head, again.
again = regraft.load("runs/own-scratch", backbone=network)
print(again)
