"""What every command line of the project shares: parsing, one-line errors, exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
import tyro

from dynamic.errors import UserError
from dynamic.resources import cpu_count, keep_freed_memory

Settings = TypeVar("Settings")


def run_command(main: Callable[[Settings], None], settings: type[Settings], description: str) -> None:
    """Parse ``settings`` (a dataclass) from the command line and call ``main``.

    Exit codes: 0 done; 1 the machine failed (disk full, no permission while writing); 2 the user's mistake; 130 interrupted.
    Errors of the first two kinds are one line on stderr; anything else is a bug and keeps its traceback.
    """
    keep_freed_memory()
    torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))  # a container's share, not the host's cores
    warnings.filterwarnings("ignore", message=".*non-writable.*|.*Consolidated metadata.*|.*EXIF data.*")
    try:
        main(tyro.cli(settings, description=description, prog=f"python -m {_module_name()}"))
    except UserError as error:
        _stop(f"error: {error}", 2)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _stop(
            f"error: {error.strerror or error}{where}: nothing finished is lost; mend it and run the same command again", 1
        )
    except torch.OutOfMemoryError as error:
        _stop(f"error: out of memory ({str(error).splitlines()[0]}): lower --memory-gib or --batch", 1)
    except KeyboardInterrupt:
        _stop("interrupted: run the same command again to go on", 130)


def check_device(device: str) -> None:
    """Raise UserError where tensors cannot be made, and read back, on ``device``."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else sys.argv[0]


def _stop(message: str, code: int) -> None:
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
