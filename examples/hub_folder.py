"""A network that comes through torch.hub, here from a folder with a hubconf.py.

python examples/hub_folder.py [DATA] [EPOCHS]

From GitHub it is hub:owner/repo:ref:entry, with trust=True, for its author's code runs. On the command line:
regraft fit DATA --backbone hub:examples/hub:small_network --strategy scratch --size 64
"""

import sys
from pathlib import Path

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 20
network = f"hub:{Path(__file__).with_name('hub')}:small_network"

run = regraft.fit(
    data, out="runs/hub-folder", overwrite=True, backbone=network, size=64, strategy=regraft.Scratch(epochs=epochs)
)
print(f"{100 * run.summary.test_scores.accuracy.value:.1f} % of the test images right after {epochs} epochs")
# A run holds weights, no code: whoever loads it names the network again.
print(regraft.load(run.folder, backbone=network))
