"""Nothing to tune: the defaults of a strategy, and a batch that is as large as the memory allows.

python examples/no_tuning.py [DATA] [EPOCHS] [PIXELS] [BATCH]

On the command line: regraft fit DATA --strategy full --batch-size 256
"""

import sys
from pathlib import Path

import regraft
from regraft.progress import Silent


class Notes(Silent):
    """Prints what a fit says of itself, such as that memory ran out and how it goes on."""

    def note(self, text: str) -> None:
        print(f"  {text}")


data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
size = int(sys.argv[3]) if len(sys.argv) > 3 else None
batch = int(sys.argv[4]) if len(sys.argv) > 4 else 256

# Where so many images do not fit at once, they go through in smaller parts, with the same result.
for strategy in (regraft.Full(epochs=epochs), regraft.Full(epochs=epochs, batch_size=batch)):
    print(f"{strategy.batch_size} images in a step, rate {strategy.base_lr:g}:")
    run = regraft.fit(data, out="runs/no-tuning", overwrite=True, strategy=strategy, size=size, progress=Notes())
    history = run.summary.history
    print(f"{100 * history.accuracy.value:.1f} % of the validation images, the solved head {100 * history.solved.value:.1f} %")
