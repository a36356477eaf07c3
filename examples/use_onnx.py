"""A model that `regraft export RUN --to onnx` wrote, without regraft: photos in, classes out.

python examples/use_onnx.py MODEL.onnx IMAGE [IMAGE ...]
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
for path in sys.argv[2:]:
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    probabilities, *distance = session.run(None, {"images": pixels[np.newaxis]})
    best = probabilities[0].argmax()
    limit = about["distance_threshold"]
    unlike = " (unlike the training images)" if distance and limit is not None and distance[0][0] > limit else ""
    print(f"{path}: {about['classes'][best]} {100 * probabilities[0][best]:.1f} %{unlike}")
