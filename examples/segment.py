"""Which pixels are the object? On the maps of a frozen network the decoder of a tutorial: two convolutions, then enlarged.

python examples/segment.py [DRAWINGS] [DECODER] [EPOCHS] [PIXELS]

The images are drawings on noise. With images and masks of your own: regraft fit IMAGES --masks MASKS --task saliency
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import regraft

drawings = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
decoder = sys.argv[2] if len(sys.argv) > 2 else "small"
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 10
size = int(sys.argv[4]) if len(sys.argv) > 4 else None

rng = np.random.default_rng(0)
for folder in ("images", "masks"):
    Path("runs/scenes", folder).mkdir(parents=True, exist_ok=True)
for path in sorted(drawings.rglob("*.png"))[::3]:
    drawing = Image.open(path).convert("RGB")
    inside = Image.fromarray((np.asarray(drawing).min(axis=2) < 240).astype(np.uint8) * 255)
    scene = Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(3))
    mask, corner = Image.new("L", scene.size), tuple(int(at) for at in rng.integers(0, 64, 2))
    scene.paste(drawing, corner, inside)
    mask.paste(inside, corner)
    scene.save(f"runs/scenes/images/{path.stem}.png")
    mask.save(f"runs/scenes/masks/{path.stem}.png")

data = regraft.Data(path=Path("runs/scenes"), task="saliency")
how = regraft.Decoding(epochs=epochs)
run = regraft.fit(data, out="runs/segment", overwrite=True, decoder=decoder, strategy=how, size=size)
print(*run.summary.mask_words, sep="\n")
for what, scores in (("the probe", run.summary.probe), (f"decoder {decoder}", run.summary.judged)):
    print(f"{what}: IoU {100 * scores.iou.value:.1f} % on {scores.n} training images that it had not seen")
iou = run.summary.test_scores.iou
print(f"test images: IoU {100 * iou.value:.1f} %, 95 % interval {100 * iou.low:.1f} to {100 * iou.high:.1f} %")

answer = run.predict([next(Path("runs/scenes/images").iterdir())])[0]
print(answer.path, answer.labels_HW.shape, *(f"{name} {100 * share:.0f} %" for name, share in answer.shares))
