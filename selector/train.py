"""Learn policies from an oracle run: which configuration each image should run.

    python -m oracle.run --images 5000 --space portfolio.json --out runs/mine      # see selector.portfolio
    python -m selector.train runs/mine
    python -m selector.benchmark runs/mine
    python -m selector.compile runs/mine                                           # static graphs, as the service runs them

Runs the network once over the images to record what policies may look at (features, answers), fits every policy on the label
split, and estimates on held-out folds of it what each setting of its dial brings. Leaves RUN/observations and
RUN/policies/NAME; the test split is observed, but no policy sees it.
"""

from __future__ import annotations

import json

from dynamic.command import run_command
from oracle.reporting.text import aligned
from oracle.runs import Run
from selector.learning.training import TrainSettings, expected, recommendations, train


def main(settings: TrainSettings) -> None:
    """Train, then print what the policies promise."""
    policies = train(settings)
    rows = expected(policies)
    table = [
        [r["policy"], (r["objective"] or "").replace("_", " "), f"{r['accuracy']:.1%}", f"{r['macs'] / 1e6:.1f}"]
        for r in rows
    ]
    images, promised = policies[0].labels_, policies[0].promised_on_
    print(f"Expected on images like the {promised} label images, by cross-validation (selector's own cost included):\n")
    print(aligned(["policy", "objective", "accuracy", "MMACs"], table), end="\n\n")
    print(*recommendations(policies), sep="\n")
    if promised < images:
        print(f"{images - promised} more chose the configurations: learned from as well, they promise nothing.")
    print(f"\nPolicies: {Run(settings.run).policies}   rank them: python -m selector.benchmark {settings.run}")
    print(f"Serve them without PyTorch: python -m selector.compile {settings.run}")
    if settings.json:
        print(json.dumps({"run": str(settings.run), "images": images, "promised_on": promised, "expected": rows}))


if __name__ == "__main__":
    run_command(main, TrainSettings, __doc__ or "")
