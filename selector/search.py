"""Which few configurations are worth choosing between: a search for what a selector can learn, not for what an oracle could.

    python -m oracle.run --images 1000 --regime wide --out runs/wide-all               # many candidates
    python -m selector.search runs/wide-all --size 8
    python -m selector.train runs/wide-all --among runs/wide-all/searched/portfolio.json
    python -m oracle.run --images 10000 --regime wide --space runs/wide-all/searched/portfolio.json --out runs/wide
    python -m selector.train runs/wide --among runs/wide-all/searched/portfolio.json   # or it promises on searched images

Half of the label images search: a cheap reference selector scores every candidate on folds that it was not fitted on, and
the portfolio grows by what its choices gain, then exchanges one configuration for another while that helps. The other half
says what is promised. selector.portfolio is the quick way, by the oracle's union; the table compares the two. No test image
is looked at. Leaves RUN/searched/portfolio.json, as oracle.run --space and selector.train --among take it, and search.json.
"""

from __future__ import annotations

import json

from dynamic.command import run_command
from oracle.reporting.text import aligned
from selector.tuning.portfolio_search import HEADER, SearchSettings, rows_of, search_run, sentences_of


def main(settings: SearchSettings) -> None:
    """Search, then print the portfolio, what it promises and, if asked, the JSON line."""
    result = search_run(settings)
    print(*result["portfolio"], sep="\n")
    print(f"\n{aligned(HEADER, rows_of(result))}\n")
    print(*sentences_of(result), sep="\n")
    print(f"\nLearn to choose among it: python -m selector.train {settings.run} --among {result['out']}")
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, SearchSettings, __doc__ or "")
