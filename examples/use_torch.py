"""A model that `regraft export RUN --to torch` wrote, with torch alone: photos in, classes out.

python examples/use_torch.py MODEL.pt2 IMAGE [IMAGE ...]
"""

import json
import sys

import numpy as np
import torch
from PIL import Image, ImageOps

extra = {"metadata.json": ""}
# Without its guards, which refuse images of one pixel on a side for no reason.
model = torch.export.load(sys.argv[1], extra_files=extra).module(check_guards=False)
classes = json.loads(json.loads(extra["metadata.json"])["classes"])
for path in sys.argv[2:]:
    pixels = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    with torch.inference_mode():
        probabilities = model(torch.from_numpy(pixels)[None])[0][0]
    print(f"{path}: {classes[int(probabilities.argmax())]} {100 * float(probabilities.max()):.1f} %")
