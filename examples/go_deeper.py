"""Which layers to train? Feature extraction, the last stage too, or everything; each starts from the solved head.

python examples/go_deeper.py [DATA] [EPOCHS] [PIXELS]
"""

import sys
from pathlib import Path

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
size = int(sys.argv[3]) if len(sys.argv) > 3 else 128

for strategy in (regraft.Head(features="last"), regraft.Partial(stages=2, epochs=epochs), regraft.Full(epochs=epochs)):
    what = regraft.inspect("efficientnet_lite0", weights="none", strategy=strategy.name, classes=8, size=size)
    run = regraft.fit(data, out=f"runs/deeper-{strategy.name.replace(':', '-')}", overwrite=True, strategy=strategy, size=size)
    accuracy, seconds = run.summary.test_scores.accuracy, run.summary.seconds["total"]
    trained = f"{what.trainable:,} of {what.parameters:,} parameters"
    print(f"{strategy.name:10} {trained:38} test {100 * accuracy.value:5.1f} %  {seconds:6.1f} s")
