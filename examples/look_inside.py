"""What a network is made of: its stages, its head, how many parameters there are and how many a strategy would train.

python examples/look_inside.py [BACKBONE] [WEIGHTS]

On the command line: regraft inspect BACKBONE --classes 10 --strategy partial:1
"""

import sys

import regraft

backbone = sys.argv[1] if len(sys.argv) > 1 else "efficientnet_lite0"
weights = sys.argv[2] if len(sys.argv) > 2 else None

for strategy in ("head", "partial:1", "full"):
    structure = regraft.inspect(backbone, classes=10, strategy=strategy, weights=weights)
    print(f"{strategy:<10} trains {structure.trainable:>10,} of {structure.parameters:,} parameters")
for stage in structure.stages:
    print(f"  {stage.name:<20} {'x'.join(map(str, stage.shape)):<12} {stage.parameters:>10,} parameters")
for head in structure.heads:
    print(f"head: {head.path} ({head.kind}, {head.in_features} features), found by {head.found_by}")
