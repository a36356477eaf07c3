"""Weights that `regraft export RUN --to safetensors` wrote, in the library's own network: photos in, classes out.

python examples/use_safetensors.py MODEL.safetensors IMAGE [IMAGE ...]
"""

import json
import sys

import numpy as np
import timm
import torch
import torchvision
from PIL import Image, ImageOps
from safetensors import safe_open

with safe_open(sys.argv[1], "pt") as file:
    about = {key: json.loads(value) for key, value in file.metadata().items()}
    state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
make = timm.create_model if about["library"] == "timm" else torchvision.models.get_model
network = make(about["model"], num_classes=len(about["classes"])).eval()
network.load_state_dict(state)
wanted = about["input"]
size, how = (wanted["width"], wanted["height"]), Image.Resampling[wanted["interpolation"].upper()]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    # The central crop at the network's size: what `regraft fit` does unless it is told otherwise.
    whole = tuple(round(side / wanted["crop_share"]) for side in size)
    left, top = ((full - side) // 2 for full, side in zip(whole, size, strict=True))
    image = ImageOps.fit(image, whole, how).crop((left, top, left + size[0], top + size[1]))
    pixels = (np.asarray(image, np.float32) / 255 - wanted["mean"]) / wanted["std"]
    with torch.inference_mode():
        probabilities = network(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]).softmax(1)[0]
    print(f"{path}: {about['classes'][int(probabilities.argmax())]} {100 * float(probabilities.max()):.1f} %")
