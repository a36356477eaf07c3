"""A model that `regraft export RUN --to openvino` wrote, without regraft: photos in, classes out.

python examples/use_openvino.py MODEL.xml IMAGE [IMAGE ...]
"""

import json
import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

model = openvino.Core().read_model(sys.argv[1])
classes = json.loads(model.get_rt_info(["regraft", "classes"]).astype(str))
# By itself OpenVINO takes bf16 where the processor has it, which is faster and not exact.
compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
for path in sys.argv[2:]:
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    probabilities = compiled(pixels[np.newaxis])["probabilities"][0]
    print(f"{path}: {classes[probabilities.argmax()]} {100 * probabilities.max():.1f} %")
