"""CIFAR-10 by its name: feature extraction and full fine-tuning of ResNet-18, judged on the data set's own test images.

SGD with momentum, a smaller rate for fine-tuning, a tenth of it after every third epoch, the loss of each epoch.

python examples/cifar10.py [DATA] [WEIGHTS] [EPOCHS] [PIXELS]      DATA: torchvision:CIFAR10, torchvision:SVHN, ..., or a folder

On the command line: regraft fit torchvision:CIFAR10 --backbone torchvision:resnet18 --strategy full --size 64 \\
    --optimizer sgd --lr 0.001 --schedule step:3
"""

import sys

import regraft

data = sys.argv[1] if len(sys.argv) > 1 else "torchvision:CIFAR10"
weights = sys.argv[2] if len(sys.argv) > 2 else None
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 10
size = int(sys.argv[4]) if len(sys.argv) > 4 else 64

fine_tuning = regraft.Full(epochs=epochs, optimizer="sgd", lr=1e-3, depth_decay=1.0, schedule="step:3", augment="flip")
for strategy in (regraft.Head(features="last"), fine_tuning):
    run = regraft.fit(
        data,
        out=f"runs/cifar10-{strategy.name}",
        overwrite=True,
        backbone="torchvision:resnet18",
        weights=weights,
        strategy=strategy,
        size=size,
    )
    # Where something was trained; the same is drawn in the run's report.html.
    for epoch in run.summary.history.epochs if run.summary.history else ():
        losses = f"loss {epoch.loss:.3f}, on validation images {epoch.validation_loss:.3f}"
        print(f"epoch {epoch.number}: {losses}, rate {epoch.rate:g}")
    accuracy = run.summary.test_scores.accuracy
    print(f"{strategy.name}: {100 * accuracy.value:.1f} % of {accuracy.n:,} test images, {len(run.classes)} classes")
