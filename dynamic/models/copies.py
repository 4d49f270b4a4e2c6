"""Whether a copy of a person's own file makes the network, without what else lies beside the file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from dynamic.errors import UserError
from dynamic.models.own_code import CodeName, build_own


def require_copy(file: Path, name: str, neighbours: Iterable[str], classes: int) -> None:
    """Build the network once from copies of its file and of what that imported, alone in another folder.

    Args:
        file: that makes it.
        name: of the function in it.
        neighbours: files that it imported, by path below its folder.
        classes: as many as the network has.

    Raises:
        UserError: the copies do not make it.
    """
    with TemporaryDirectory() as folder:
        for each in (file.name, *neighbours):
            copy = Path(folder) / each
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.resolve().parent / each, copy)
        try:
            build_own(CodeName(where=Path(folder) / file.name, name=name), classes, classes, kept=False)
        except UserError as error:
            said = str(error).replace(f"{Path(folder).resolve()}/", "").replace(f"{folder}/", "")
            raise UserError(
                f"a run keeps a copy of {file}, which alone makes no network ({said}): let {name} return the network "
                "without its weights, and pass --weights FILE"
            ) from error
