"""On which label images a space was chosen: nothing may be promised on them, in whatever run it is used."""

from __future__ import annotations

from pathlib import Path

from dynamic.errors import UserError
from dynamic.integrity import read_record, write_record
from oracle.run_folder import RunFolder

SEARCH, SEARCHED_ON = "search.json", "searched_on"
"""What selector.search leaves beside a portfolio, and its entry of the label images that it was found on."""


def searched_on(portfolio: Path) -> frozenset[str]:
    """Keys of the label images that selector.search found a portfolio on; none of a file that it did not write.

    Raises:
        UserError: the search's record is damaged, or of an earlier version.
    """
    record = portfolio.parent / SEARCH
    if not record.exists():
        return frozenset()
    found = read_record(record)
    if SEARCHED_ON not in found:
        raise UserError(f"{record} does not tell which images were searched on, as an earlier version's: search again")
    return frozenset(found[SEARCHED_ON])


def searched_in(spaces: str) -> frozenset[str]:
    """The same for the files that ``--space`` names.

    >>> searched_in("stride,efficiency")
    frozenset()
    """
    files = [Path(name) for name in spaces.split(",") if name.endswith(".json")]
    return frozenset[str]().union(*map(searched_on, files))


def chosen_on(run: RunFolder) -> frozenset[str]:
    """Keys of the label images that chose a run's configurations."""
    return frozenset(read_record(run.chosen_on)["images"] if run.chosen_on.exists() else ())


def keep_chosen_on(run: RunFolder, keys: frozenset[str]) -> None:
    """Add to them, for good."""
    if not keys <= (kept := chosen_on(run)):
        write_record(run.chosen_on, {"images": sorted(kept | keys)})
