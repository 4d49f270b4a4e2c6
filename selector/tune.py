"""From a network and a folder of images to a run that can be served: does choosing pay here, and how much?

    python -m selector.tune                                                     # embedded network and images, a few minutes
    python -m selector.tune --model resnet50 --weights mine.pth --data-dir photos --out runs/mine
    python -m selector.tune --model my_net.py:build --weights best.pth --data-dir photos --out runs/mine
    SERVING_NETWORK=runs/mine bentoml serve

Says what there is and how long it takes; tries the whole space on a few label images (OUT/sets/search), with the network's
batch-norm statistics and with re-estimated ones; keeps some configurations (OUT/portfolio.json) and evaluates them on all
images; learns policies on the label images and ranks them on the test images, once. Ends with what the network reaches, what
a perfect chooser would, and what the best policy brings, or that none does, and how many labels it would take to tell.
Started again it goes on where it was interrupted. Each step is a command of its own: oracle.rof, oracle.run,
selector.portfolio, oracle.run, selector.train, selector.benchmark. The service compiles what is left at its first start;
selector.compile does so beforehand, and in other precisions.
"""

from __future__ import annotations

import json

from dynamic.command import run_command
from oracle.reporting.text import aligned
from selector.tuning.settings import TuneSettings
from selector.tuning.tuning import tune
from selector.tuning.verdict import HEADER, rows_of, sentences_of, summary_of


def main(settings: TuneSettings) -> None:
    """Tune, then print the table, what it means and, if asked, the JSON line."""
    result = tune(settings)
    print(f"\n{aligned(HEADER, rows_of(result))}\n")
    print(*sentences_of(result), sep="\n")
    print(f"\nReport: {settings.out / 'report.html'}, {settings.out / 'ranking' / 'report.html'}")
    print(f"Compile it, which the service otherwise does at its first start: python -m selector.compile {settings.out}")
    print(f"Serve it: SERVING_NETWORK={settings.out} bentoml serve")
    if settings.json:
        print(json.dumps({"out": str(settings.out)} | summary_of(result)))


if __name__ == "__main__":
    run_command(main, TuneSettings, __doc__ or "")
