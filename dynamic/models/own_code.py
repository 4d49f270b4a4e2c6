"""What a person's own Python file or package makes: a network, or a transform, named ``path/to/file.py:name``.

The file is run as Python runs any module; what it imports from its own folder is found: see
:mod:`dynamic.models.neighbours`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from dynamic.errors import UserError
from dynamic.models.neighbours import importable


@dataclass(frozen=True, kw_only=True)
class CodeName:
    """A name in a person's own code.

    Attributes:
        where: the file, or the dotted name of a module.
        name: of what is in it.
    """

    where: Path | str
    name: str

    @classmethod
    def parse(cls, text: str) -> CodeName | None:
        """``file.py:name`` or ``package.module:name``; None where ``text`` is neither.

        Raises:
            UserError: a Python file without a name behind it.

        >>> CodeName.parse("nets/mine.py:build")
        CodeName(where=PosixPath('nets/mine.py'), name='build')
        >>> CodeName.parse("resnet50") is CodeName.parse("timm/hf-hub:timm/resnet50") is None
        True
        """
        where, colon, name = text.rpartition(":")
        if text.endswith(".py"):
            raise UserError(f"{text} is a file: say which function in it, {text}:NAME{_offered(_functions(Path(text)))}")
        if not colon or text.startswith("timm/") or not name.isidentifier():
            return None
        if where.endswith(".py"):
            return cls(where=Path(where), name=name)
        return cls(where=where, name=name) if all(part.isidentifier() for part in where.split(".")) else None

    def __str__(self) -> str:
        return f"{self.where}:{self.name}"

    @property
    def short(self) -> str:
        """Without the file's folder, which may move."""
        return f"{self.where.name}:{self.name}" if isinstance(self.where, Path) else str(self)

    @property
    def file(self) -> Path | None:
        """The Python file; None for a module of an installed package."""
        return self.where if isinstance(self.where, Path) else None


@dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """A network that a person's own code made.

    Attributes:
        original: the network.
        code: what is in the file of the code.
        takes_classes: whether the code can make it with another number of classes.
    """

    original: nn.Module
    code: bytes
    takes_classes: bool


def build_own(code: CodeName, classes: int | None = None, likely: int | None = None, *, kept: bool = True) -> OwnNetwork:
    """Run the code and call the function.

    Args:
        code: of a function without arguments, or with one that is called ``classes`` or ``num_classes``; a class of
            networks; or a network itself.
        classes: given to the function where it takes them.
        likely: given to it instead where it must be told.
        kept: whether what the code imported from its folder stays imported, for what it makes.

    Raises:
        UserError: no such file or name, or an error in the code, with its file and line.
    """
    with _running(code, kept) as module:
        found = getattr(module, code.name)
        if isinstance(found, nn.Module):
            made, takes = found, None
        else:
            takes, must = _classes_argument(code, found)
            told = classes if classes is not None else likely if must else None
            if must and told is None:
                raise UserError(f"{code} must be told the number of {takes}: give it a default, or pass --weights FILE")
            made = found(**({} if takes is None or told is None else {takes: told}))
        if not isinstance(made, nn.Module):
            raise UserError(f"{code} gave {_kind(made)}: it must return a torch.nn.Module")
        return OwnNetwork(
            original=unwrapped(made),
            code=Path(module.__file__ or "").read_bytes(),
            takes_classes=takes is not None,
        )


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, out of what torch.compile and parallel training wrap around it.

    Raises:
        UserError: its parameters have no shape yet.

    >>> unwrapped(nn.DataParallel(nn.Identity()))
    Identity()
    """
    inner = getattr(module, "_orig_mod", None)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = module.module
    if isinstance(inner, nn.Module):
        return unwrapped(inner)
    if any(map(is_lazy, chain(module.parameters(), module.buffers()))):
        raise UserError(f"{type(module).__name__} has lazy modules: run it once on a picture before returning it")
    return module


def own_object(code: CodeName) -> Any:
    """What ``code`` names, or what it returns if it is a function. Raises UserError as :func:`build_own`."""
    with _running(code) as module:
        found = getattr(module, code.name)
        return found() if inspect.isfunction(found) else found


@contextmanager
def _running(code: CodeName, kept: bool = True) -> Iterator[ModuleType]:
    """The module, which has the name; errors of the code while inside become one line."""
    if code.file is not None and not code.file.is_file():
        raise UserError(f"no file {code.file}: name an existing one, path/to/file.py:{code.name}")
    with importable("" if code.file is None else str(code.file.resolve().parent), kept=kept):
        try:
            module = _import(code)
            if not hasattr(module, code.name):
                raise UserError(f"{code.where} has no {code.name!r}{_offered(_public(module), code.name)}")
            yield module
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(_told(code, error)) from error


def _import(code: CodeName) -> ModuleType:
    if isinstance(code.where, str):
        return importlib.import_module(code.where)
    path = code.where.resolve()
    module = ModuleType(f"own_{path.stem}")
    module.__file__, module.__package__ = str(path), ""
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def _told(code: CodeName, error: BaseException) -> str:
    """One line: what went wrong, in which file and line."""
    file, line = str(code.where), 0
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno or 0
    else:
        for frame in traceback.extract_tb(error.__traceback__):  # the innermost line of the person's own code
            if _is_own(Path(frame.filename), code):
                file, line = frame.filename, frame.lineno or 0
    what = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    place = f"{file}, line {line}" if line else file
    if isinstance(error, ModuleNotFoundError) and error.name:
        beside = "" if code.file is None else f" beside it ({code.file.resolve().parent}) or"
        return (
            f"{place}: needs the module {error.name!r}, which is not found: it must lie{beside} where Python finds it "
            "(PYTHONPATH, or installed)"
        )
    if isinstance(error, ImportError) and "relative import" in what and code.file is not None:
        above, module = _as_module(code.file.resolve())
        return (
            f"{place}: imports relatively, which a file alone cannot: name it as a module, {module}:{code.name}, in {above}"
        )
    if isinstance(error, SystemExit):
        return f"{place}: ended the program: keep what is a script under if __name__ == '__main__'"
    return f"{place}: {type(error).__name__}" + (f": {what}" if what else "")


def _as_module(file: Path) -> tuple[Path, str]:
    """The folder above a file's package, and its dotted name from there."""
    folder, names = file.parent.parent, [file.parent.name, file.stem]
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names)


def _is_own(file: Path, code: CodeName) -> bool:
    """Whether a file lies beside the code's, or in its package."""
    if code.file is not None:
        return file.is_relative_to(code.file.resolve().parent) and "site-packages" not in file.parts
    package = str(code.where).partition(".")[0]
    return package in file.parts or file.stem == package


def _classes_argument(code: CodeName, found: Any) -> tuple[str | None, bool]:
    """Name of the argument that takes the number of classes, if there is one, and whether it has no default."""
    if not callable(found):
        raise UserError(f"{code} is {_kind(found)}: it must be a function that returns a torch.nn.Module")
    parameters = inspect.signature(found).parameters
    takes = next((name for name in ("classes", "num_classes") if name in parameters), None)
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    others = [name for name in needed if name != takes]
    if others:
        raise UserError(f"{code} needs {', '.join(others)}: it must take no argument, or classes alone")
    return takes, takes in needed


def _public(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def _functions(file: Path) -> list[str]:
    """Functions and classes that a file defines; none where it is no Python."""
    try:
        tree = ast.parse(file.read_text())
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _offered(names: list[str], near: str = "") -> str:
    close = difflib.get_close_matches(near, names, 3) if near else []
    return f"; did you mean {' or '.join(close)}?" if close else f"; it has {', '.join(names[:10])}" if names else ""


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
