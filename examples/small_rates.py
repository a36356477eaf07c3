"""A small rate for the backbone and a large one for the head; or gradual unfreezing, one stage more in each phase.

python examples/small_rates.py [DATA] [EPOCHS] [PIXELS] [PHASES]      EPOCHS: those of each phase

On the command line: regraft fit DATA --strategy full --lr 1e-3 --depth-decay 0.5, or --strategy gradual:2
"""

import sys
from pathlib import Path

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 2
size = int(sys.argv[3]) if len(sys.argv) > 3 else 128
phases = int(sys.argv[4]) if len(sys.argv) > 4 else None

# Half the rate for each stage further away from the head.
falling = regraft.Full(epochs=epochs, lr=1e-3, depth_decay=0.5, schedule="constant")
gradual = regraft.Gradual(epochs=epochs, phases=phases)
for strategy in (falling, gradual):
    run = regraft.fit(data, out=f"runs/rates-{strategy.name.replace(':', '-')}", overwrite=True, strategy=strategy, size=size)
    for epoch in run.summary.history.epochs:
        rates = f"rates {epoch.rate:.1e} (head) to {epoch.lowest_rate:.1e} (first layers that train)"
        print(
            f"{strategy.name}, phase {epoch.phase}, epoch {epoch.number}: validation loss {epoch.validation_loss:.3f}, {rates}"
        )
    print(f"{strategy.name}: {100 * run.summary.test_scores.accuracy.value:.1f} % of the test images")
