"""First the head; then unfreeze some of the pretrained weights and go on training, from what has been reached.

python examples/unfreeze_more.py [DATA] [EPOCHS] [PIXELS]

On the command line: regraft fit DATA --out runs/1-head, then regraft fit DATA --from runs/1-head --strategy partial:2
"""

import sys
from pathlib import Path

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
size = int(sys.argv[3]) if len(sys.argv) > 3 else 128

run = regraft.fit(data, out="runs/1-head", overwrite=True, size=size)
print(f"head: {100 * run.summary.test_scores.accuracy.value:.1f} % of the test images")

# The same data and seed: the test images stay those that nothing was learned from.
for number, strategy in enumerate((regraft.Partial(stages=2, epochs=epochs), regraft.Full(epochs=epochs)), start=2):
    out = f"runs/{number}-{strategy.name.replace(':', '-')}"
    run = regraft.fit(data, out=out, overwrite=True, start_from=run.folder, strategy=strategy)
    print(f"{strategy.name}, from there: {100 * run.summary.test_scores.accuracy.value:.1f} % of the test images")
    print(f"  trained was {run.summary.history.what}")
