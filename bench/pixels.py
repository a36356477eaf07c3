"""The figures of tasks whose every pixel has an answer: beside a plain loop on the same network, and alone."""

import sys
from pathlib import Path
from typing import Any

from figures import Bench, Row, number, regraft
from measure import ROOT, run_process, spread

CACHE = "pixels"
# As many epochs as give the probe's decoder a good start in half of the peer's time.
FEW_EPOCHS = "8"


def beside_smp(bench: Bench) -> list[Row]:
    """stamps-masks, saliency: `head` with its cache empty beside smp.Unet trained by a plain loop for 10 epochs."""
    data = bench.data_of_masks()
    leads, shares, long_leads, long_shares, ious = [], [], [], [], []
    for number_of_run in range(1 if bench.quick else bench.pairs):
        theirs = peer(data, "--epochs", "1" if bench.quick else "10")["epochs"]
        peer_seconds, peer_iou = theirs[-1]["seconds"], theirs[-1]["mean_iou"]
        best = max(epoch["mean_iou"] for epoch in theirs)
        short = fit_pixels(bench, data, f"{CACHE}-{number_of_run}", "--task", "saliency", "--epochs", FEW_EPOCHS)
        usual = fit_pixels(bench, data, f"{CACHE}-{number_of_run}-usual", "--task", "saliency")
        leads.append(100 * (short.line["test"]["iou"]["value"] - peer_iou))
        shares.append(short.seconds / peer_seconds)
        long_leads.append(100 * (usual.line["test"]["iou"]["value"] - peer_iou))
        long_shares.append(usual.seconds / peer_seconds)
        ious.append(
            f"peer {100 * peer_iou:.1f} % (best epoch {100 * best:.1f}) in {number(peer_seconds)} s, ours "
            f"{100 * short.line['test']['iou']['value']:.1f} % in {number(short.seconds)} s and "
            f"{100 * usual.line['test']['iou']['value']:.1f} % in {number(usual.seconds)} s"
        )
    also = {"runs": "; ".join(ious)}
    few = f"`--strategy head --epochs {FEW_EPOCHS}`"
    return [
        Row(
            what=f"mean IoU of the object on test images, {few}, lead over smp.Unet",
            measured=spread(leads),
            at_least=0,
            unit=" points",
            also=also,
        ),
        Row(what="its seconds, the whole process, as a share of smp.Unet's training", measured=spread(shares), at_most=0.5),
        Row(
            what="mean IoU of the object, `--strategy head` as it is, lead over smp.Unet",
            measured=spread(long_leads),
            at_least=3,
            unit=" points",
        ),
        Row(what="its seconds, the whole process, as a share of smp.Unet's training", measured=spread(long_shares), at_most=1),
    ]


def alone(bench: Bench) -> list[Row]:
    """stamps-masks: what is reached within 15 minutes, and the memory that a large photo takes."""
    data = bench.data_of_masks()
    saliency = fit_pixels(bench, data, CACHE, "--task", "saliency")
    folder = bench.scratch / "photo"
    folder.mkdir(exist_ok=True)
    large_photo(bench, folder / "photo.jpg")
    answers = bench.scratch / "answers"
    photo = regraft("predict", bench.scratch / "runs/pixels", folder, "--out", answers, "--json", memory=True)
    semantic = fit_pixels(bench, data, CACHE, "--task", "semantic", "--masks", "masks-semantic")
    return [
        Row(
            what="mean IoU of the object on test images of stamps-masks",
            at_least=85,
            unit=" %",
            measured=spread([100 * saliency.line["test"]["iou"]["value"]]),
            also=_said(saliency.line),
        ),
        Row(what="its seconds, the whole process", measured=spread([saliency.seconds]), at_most=900),
        Row(
            what="mean IoU of six classes on test images of stamps-masks",
            at_least=55,
            unit=" %",
            measured=spread([100 * semantic.line["test"]["iou"]["value"]]),
            also=_said(semantic.line),
        ),
        Row(what="its seconds, the whole process", measured=spread([semantic.seconds]), at_most=900),
        Row(
            what="peak memory of predicting a photo of 4,000 x 3,000 pixels",
            at_most=1.5,
            unit=" GB",
            measured=spread([photo.peak_bytes / 1e9]),
            also={"seconds": number(photo.seconds)},
        ),
    ]


def _said(line: dict[str, Any]) -> dict[str, str]:
    interval = line["test"]["iou"]
    probe = line["probe"]["iou"]["value"]
    return {
        "95 % interval": f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f} %",
        "probe alone": f"{100 * probe:.1f} %",
    }


def fit_pixels(bench: Bench, data: Path, cache: str, *flags: str) -> Any:
    """`regraft fit` with masks, from start to end of the process."""
    out = bench.scratch / "runs/pixels"
    folder = bench.scratch / "caches" / cache
    return regraft("fit", data, "--out", out, "--overwrite", "--cache", folder, "--json", *flags)


def peer(data: Path, *flags: str) -> dict[str, Any]:
    """One run of the peer in a fresh process."""
    return run_process([sys.executable, str(ROOT / "bench/peers_pixels.py"), str(data), *flags]).line


def large_photo(bench: Bench, path: Path) -> None:
    """One of the photos of 12 megapixels."""
    found = next((bench.set("photos") / "test").rglob("*.jpg"))
    path.write_bytes(found.read_bytes())
