"""Where the head of a network is, without a table of names: `fc`, `classifier`, `heads.head`, `head` and all the others.

python examples/find_heads.py [NAMES OF TORCHVISION]
"""

import sys

import regraft

FAMILIES = (
    *("resnet18", "regnet_y_400mf", "vgg11", "alexnet", "densenet121", "efficientnet_b0", "mobilenet_v2"),
    *("mobilenet_v3_small", "convnext_tiny", "vit_b_16", "inception_v3", "swin_t", "squeezenet1_1"),
)

for name in sys.argv[1:] or FAMILIES:
    # The weights do not matter for this, so none are loaded.
    for head in regraft.inspect(f"torchvision:{name}", weights="none").heads:
        print(f"{name:<20} {head.path:<16} {head.in_features:>5} features  {head.role}, found by {head.found_by}")
