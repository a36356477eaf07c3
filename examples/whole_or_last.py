"""Full fine-tuning of a ResNet at 1e-4, or only its `layer4` and `fc`.

python examples/whole_or_last.py [DATA] [BACKBONE] [WEIGHTS] [EPOCHS] [PIXELS]      WEIGHTS: a name, a file, or none (random)

On the command line: regraft fit DATA --backbone torchvision:resnet50 --strategy full --lr 1e-4, or --strategy partial:1
"""

import sys
from pathlib import Path

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
backbone = sys.argv[2] if len(sys.argv) > 2 else "torchvision:resnet50"
weights = sys.argv[3] if len(sys.argv) > 3 else None
epochs = int(sys.argv[4]) if len(sys.argv) > 4 else 5
size = int(sys.argv[5]) if len(sys.argv) > 5 else 128

for strategy in (regraft.Full(lr=1e-4, depth_decay=1.0, epochs=epochs), regraft.Partial(stages=1, epochs=epochs)):
    what = regraft.inspect(backbone, weights="none", strategy=strategy.name, classes=8, size=size)
    trained = ", ".join(part.name for part in what.parts if part.trainable)
    run = regraft.fit(
        data,
        out=f"runs/{strategy.name.replace(':', '-')}",
        overwrite=True,
        backbone=backbone,
        weights=weights,
        strategy=strategy,
        size=size,
    )
    accuracy, seconds = run.summary.test_scores.accuracy.value, run.summary.seconds["training"]
    print(f"{strategy.name:<10} {100 * accuracy:.1f} % of the test images, {seconds:.0f} s of training; trained: {trained}")
