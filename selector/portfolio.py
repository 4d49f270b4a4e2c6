"""Which few configurations a policy chooses among: from an oracle run's label split alone.

    python -m oracle.run --images 400 --regime wide --out runs/wide-all
    python -m selector.portfolio runs/wide-all --size 16 --out portfolio.json
    python -m oracle.run --images 10000 --regime wide --space portfolio.json --out runs/wide
    python -m selector.train runs/wide

Hundreds of configurations are hopeless to learn from thousands of labels; a portfolio of 16 keeps most of the best case.
"""

from __future__ import annotations

import json

from dynamic.command import run_command
from dynamic.files import write_whole
from oracle.runs import Run
from selector.learning.portfolios import PortfolioSettings, portfolio_of


def main(settings: PortfolioSettings) -> None:
    """Choose, write the list, and print it."""
    run = Run.open(settings.run)
    ids = [c.id for c in portfolio_of(run.outcomes(), run.network.default, settings.size, settings.cost_limit)]
    write_whole(settings.out, json.dumps(ids, indent=1).encode())
    print(*ids, sep="\n")
    print(f"\n{len(ids)} configurations in {settings.out}; next: python -m oracle.run --space {settings.out} ...")
    if settings.json:
        print(json.dumps({"portfolio": ids, "out": str(settings.out)}))


if __name__ == "__main__":
    run_command(main, PortfolioSettings, __doc__ or "")
