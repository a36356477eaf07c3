"""Why the defaults are what they are: the alternatives measured beside them, by cross-validation on real images.

    python bench/choices.py --data DIR [SET ...]       pooling and crop: one line per alternative and set

Each line: the data, what was pooled, the share of the image shown, D, the chosen l2, the cross-validated negative
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import data as image_sets
import numpy as np
import torch
from measure import ROOT
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.features import FromPixels, flat, mean_of, probe
from regraft.backbone.graph import position_dims, prefix_part
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cache.engines import Network, OpenVinoEngine
from regraft.cache.stream import Row, load_images, run_images
from regraft.data.read import read_samples
from regraft.data.split import split_samples
from regraft.recipe import DEFAULT_BACKBONE, Data
from regraft.task.classify import targets_of
from regraft.train.path import choose_l2
from regraft.values import Split

STAGES = 6
CHOICES = {
    "last": ("last",),
    "last, mean max": ("last", "mean", "max"),
    "last, mean deviation": ("last", "mean", "deviation"),
    "last, mean max deviation": ("last", "mean", "max", "deviation"),
    "last, 2x2 means": ("last", "grid"),
    "last, mean max, 2x2 means": ("last", "mean", "max", "grid"),
    "last, 2x2 means, deviation": ("last", "grid", "deviation"),
}


class Pools(nn.Module):
    """The head's input and, for each of the stages before the last, its mean, max, deviation and 2x2 means."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        assert backbone.graph is not None
        nodes = [stage.node for stage in backbone.stages[-STAGES - 1 : -1]]
        self.prefix = prefix_part(backbone.module, backbone.graph, [backbone.head.input_node, *nodes])
        self.shapes = [tuple(value.shape) for value in probe(self.prefix, backbone.preprocess)]

    def forward(self, images: Tensor) -> Tensor:
        first, *maps = self.prefix(images)
        return torch.cat([flat(first), *(part for value in maps for part in self._parts(value))], dim=1)

    @staticmethod
    def _parts(value: Tensor) -> list[Tensor]:
        dims = position_dims(value.shape)
        deviation = (value - value.mean(dim=dims, keepdim=True)).square().mean(dim=dims).sqrt()
        return [mean_of(value), value.amax(dim=dims), deviation, nn.functional.adaptive_avg_pool2d(value, 2).flatten(1)]

    def columns(self, kinds: tuple[str, ...]) -> NDArray[np.int64]:
        """Positions of the columns of these kinds."""
        found, start = [], 0
        for shape in self.shapes:
            widths = (
                {"last": shape[1]}
                if start == 0
                else {"mean": shape[1], "max": shape[1], "deviation": shape[1], "grid": 4 * shape[1]}
            )
            for kind, width in widths.items():
                found += [np.arange(start, start + width)] * (kind in kinds)
                start += width
        return np.concatenate(found)


def extract(backbone: Backbone, pools: Pools, split: Split) -> NDArray[np.float32]:
    """Every column of every image, training images first."""
    pixels = np.zeros((1, backbone.preprocess.height, backbone.preprocess.width, 3), np.uint8)
    engine = OpenVinoEngine(Network(FromPixels(pools, backbone.preprocess).eval(), "", None), pixels, "bf16")
    images = load_images([(sample.path, sample.name) for sample in (*split.train, *split.test)], backbone.preprocess)
    return np.stack(
        [row.features for row in run_images(images, lambda: engine) if isinstance(row, Row) and row.features is not None]
    )


def measure(name: str, folder: Path, share: float) -> None:
    """Print a line per choice of columns."""
    backbone = load_backbone(DEFAULT_BACKBONE)
    backbone = replace(backbone, preprocess=replace(backbone.preprocess, crop_share=share))
    data = Data(path=folder)
    split = split_samples(read_samples(data), data, 0)
    pools = Pools(backbone)
    features_ND = extract(backbone, pools, split)
    targets, truth = (targets_of(part, split.classes, False) for part in (split.train, split.test))
    for label, kinds in CHOICES.items():
        columns = pools.columns(kinds)
        train_ND, test_ND = np.split(features_ND[:, columns], [len(targets)])
        result = choose_l2(train_ND, targets, split.folds_N, classes=len(split.classes))
        best = min(result.tried, key=lambda strength: strength.nll)
        test = float((result.head.logits(test_ND).argmax(axis=1) == truth).mean())
        line = {"data": name, "pooled": label, "shown": share, "D": len(columns), "l2": result.l2, "cv_nll": best.nll}
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}
        print(json.dumps(rounded | {"cv_accuracy": round(best.accuracy, 4), "test": round(test, 4)}), flush=True)


def main() -> None:
    """All sets, both crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fashion2k", "clipart", "stamps"])
    parser.add_argument("--data", type=Path, default=ROOT / "bench/out/data")
    chosen = parser.parse_args()
    for name in chosen.sets:
        for share in (0.875, 1.0):
            measure(name, image_sets.make(name, chosen.data.resolve()), share)


if __name__ == "__main__":
    main()
