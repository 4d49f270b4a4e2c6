"""Settings of a fine-tuning, which are the options of ``python -m oracle.rof``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dynamic.command import check_device
from dynamic.errors import UserError
from dynamic.models import NetworkSettings
from dynamic.scenes import Regime
from dynamic.training.loop import DType
from oracle.data.sources import DatasetName
from oracle.settings import check_scenes
from oracle.training.schedules import ScheduleName


@dataclass(frozen=True, kw_only=True)
class RofSettings(NetworkSettings):
    """How to fine-tune; the defaults are the paper's (section 3.4). It does not give the batch."""

    dataset: DatasetName = "fashion-scenes"
    """Whose training images: fashion-scenes' 50,000, or the class folders of DIR/train."""
    data_dir: Path | None = None
    """Folder of the data set; for fashion-scenes that of Fashion-MNIST (unless given, Debian's dataset-fashion-mnist)."""
    class_map: Path | None = None
    """JSON file, folder name -> class index, where folder names do not tell."""
    regime: Regime = "matched"
    """Of fashion-scenes: object sides as in pre-training, or far beyond."""
    space: str = "stride"
    """Whose configurations are drawn: as for oracle.run, one space."""
    method: Literal["rof", "distillation"] = "rof"
    """The paper's random options, or our distillation (see above)."""
    students: int = 2
    """Of distillation: random configurations a step, beside the cheapest."""
    label_weight: float = 0.0
    """Of distillation: how much students learn from the labels, from 0 (from the teacher alone) to 1."""
    deferral_weight: float = 0.0
    """Of distillation: how much students learn to be sure where they are right and unsure where they are wrong, from 0 to 1:
    for rungs of a cascade, which defers what its rungs are unsure of."""
    temperature: float = 1.0
    """Of distillation: what logits of teacher and students are divided by in what students learn from the teacher."""
    teacher: Literal["default", "average"] = "default"
    """Of distillation: who teaches, the default configuration as it is in the step, or that of the averaged weights."""
    average: float = 0.0
    """Keep an exponential moving average of the weights with this decay a step (such as 0.995), and write it instead of the
    last weights; 0 keeps none."""
    cost_limit: float | None = None
    """Draw only configurations of at most so many times the default's MACs."""
    epochs: int = 15
    """Passes over the training images."""
    schedule: ScheduleName = "steps"
    """Of the learning rate: a tenth after DROP_AFTER epochs, a cosine, or constant until the last DECAY_EPOCHS. A ``stable``
    training that was interrupted before its decay may go on with other --epochs, so that one can say when to end."""
    warm_up_steps: int = 0
    """Steps over which the learning rate rises to its highest."""
    drop_after: int = 10
    """Of ``steps``: epochs after which the learning rate falls to a tenth."""
    decay_epochs: int = 1
    """Of ``stable``: last epochs, over which the learning rate falls to zero."""
    learning_rate: float = 1e-3
    """The highest."""
    momentum: float = 0.9
    """Of stochastic gradient descent."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    batch: int | None = None
    """Images a step, over all processes; unless given 128, or as many as there are."""
    norm_momentum: float = 0.1
    """How fast batch norms' running statistics forget. At PyTorch's 0.1 they are those of the last dozen configurations;
    0.01 averages over a hundred."""
    images: int | None = None
    """Use only so many training images (for trying things out)."""
    epoch_images: int | None = None
    """Images an epoch, drawn anew from all: shorter epochs are logged and checkpointed more often."""
    checked_images: int = 250
    """Label-split images that the log's accuracies are measured on; none is trained on."""
    seed: int = 0
    """Scenes or crops, order, and the configurations drawn."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Any torch device; under torchrun each process takes the GPU of its local rank."""
    dtype: DType = "auto"
    """Autocast type; weights stay float32. ``auto`` is bfloat16 where the device multiplies in it, else float32: a step
    takes ten times as long where bfloat16 is emulated."""
    out: Path | None = None
    """Folder for weights, log and checkpoint; trained/MODEL-METHOD-SPACE unless given."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scenes(self, self.dataset)
        for field in ("epochs", "images", "epoch_images", "checked_images", "students", "decay_epochs"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"--{field.replace('_', '-')} must be at least 1, not {value}")
        if self.batch is not None and self.batch < 2:
            raise UserError(f"--batch must be at least 2 (batch norms need two images), not {self.batch}")
        for field in ("learning_rate", "cost_limit", "norm_momentum", "temperature"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise UserError(f"--{field.replace('_', '-')} must be positive, not {value}")
        if self.seed < 0 or self.drop_after < 0:
            raise UserError("--seed and --drop-after must not be negative")
        self._check_schedule()
        for field in ("label_weight", "deferral_weight"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"--{field.replace('_', '-')} must be between 0 and 1, not {getattr(self, field)}")
        if not 0 <= self.average < 1:
            raise UserError(f"--average must be at least 0 and less than 1, not {self.average}")
        if self.teacher == "average" and not self.average:
            raise UserError("--teacher average needs --average, the decay of the averaged weights, such as 0.995")
        check_device(self.device)

    def _check_schedule(self) -> None:
        if self.warm_up_steps < 0:
            raise UserError(f"--warm-up-steps must not be negative, as {self.warm_up_steps} is")
        if self.schedule == "stable" and self.decay_epochs > self.epochs:
            raise UserError(f"--decay-epochs {self.decay_epochs} must be at most --epochs, which is {self.epochs}")
