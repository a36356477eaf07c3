"""Which strategy is best for these images? Measured within some minutes, beside what the usual rule of thumb says.

python examples/choose_strategy.py [DATA] [MINUTES] [PIXELS]

On the command line: regraft fit DATA --strategy auto --minutes 10
"""

import sys
from pathlib import Path

import regraft

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clipart")
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 10
size = int(sys.argv[3]) if len(sys.argv) > 3 else None

run = regraft.fit(data, out="runs/auto", overwrite=True, strategy=regraft.Auto(minutes=minutes), size=size)

rule = run.summary.rule
print(f"rule of thumb for {rule.images:,} images that the network is {100 * rule.confidence:.0f} % sure of: {rule.advice}")
for tried in run.summary.compared:
    if tried.note:
        print(f"{tried.strategy:<10} not tried: {tried.note}")
    else:
        gain = f"{tried.gain:+.3f} nats, standard error {tried.gain_se:.3f}"
        print(f"{tried.strategy:<10} {100 * tried.accuracy:.1f} % of the validation images, {gain}, {tried.seconds:.0f} s")
print(f"kept: {run.summary.strategy}, {100 * run.summary.test_scores.accuracy.value:.1f} % of the test images")
