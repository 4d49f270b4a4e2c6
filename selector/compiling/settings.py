"""What is compiled, and where to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dynamic.compiled.runtimes import Precision, RuntimeName
from dynamic.errors import UserError
from selector.shipped import SHIPPED


@dataclass(frozen=True, kw_only=True)
class CompileSettings:
    """What to compile."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run with policies, or the name of one that the package ships (matched, wide)."""
    precision: Precision = "float32"
    """That graphs compute in. bfloat16 needs OpenVINO and a CPU that has it; int8 is calibrated on label images. Both have
    policies of their own, fitted on the label images' answers in that precision."""
    runtime: RuntimeName | None = None
    """That runs the graphs here: onnxruntime, or openvino, which is what bfloat16 runs on."""
    images: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """At most so many images of each split are looked at; all unless given."""
    check: bool = True
    """Compare with the network in float32 on the test images; float32 graphs alone are made within seconds without."""
    data_dir: Path | None = None
    """Where the run's images are now, if they were moved."""
    out: Path | None = None
    """Folder of the graphs; RUN/compiled/PRECISION unless given, or one in the user's cache where that cannot be written."""
    seed: int = 0
    """Deals the folds on which policies of another precision are estimated."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 8:
            raise UserError(f"--images must be at least 8, not {self.images}")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, as {self.seed} is")
        if not self.check and self.precision != "float32":
            raise UserError(f"--no-check is for float32: policies in {self.precision} are fitted on looked-at images")

    @property
    def folder(self) -> Path:
        """Of the run; a shipped one's name comes before a folder's, as for SERVING_NETWORK."""
        return SHIPPED.get(str(self.run), self.run)
