"""A pretrained network as it is: photos in, the five likeliest of ImageNet's classes out.

python examples/use_pretrained.py [IMAGE ...]
"""

import sys
from pathlib import Path

import regraft

images = sys.argv[1:] or sorted(Path(__file__).with_name("clipart").glob("*/*ba*na*.png"))[:3]
for answer in regraft.pretrained("efficientnet_lite0").predict(images, top_k=5):
    print(answer.path, answer.reason)
    for name, probability in answer.top:
        print(f"  {100 * probability:5.1f} %  {name}")
