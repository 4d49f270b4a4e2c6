"""The options of every command that can work on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynamic.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """Whether to work on a cluster, and what each worker gets."""

    ray: str = ""
    """Work on a Ray cluster instead of in this process, with the same result: local (one on this machine, for this
    command), auto (the one that this machine is part of), or an address. Extra [ray]; docs/CLUSTER.md."""
    ray_workers: int | None = None
    """Workers to ask the cluster for; unless given, as many as it has room for, now and later."""
    ray_cpus: float = 1
    """Cores of each worker."""
    ray_gpus: float | None = None
    """GPUs of each worker, or a fraction of one; unless given, 1 where --device is one, else 0."""
    ray_memory_gib: float | None = None
    """Memory that the cluster sets aside for each worker; unless given, none is counted."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("cpus", 0.01), ("gpus", 0), ("memory_gib", 0.01)):
            value = getattr(self, f"ray_{name}")
            option = f"--ray-{name.replace('_', '-')}"
            if value is not None and value < least:
                raise UserError(f"{option} must be at least {least}, not {value}")
            if value is not None and not self.ray and value != type(self).__dataclass_fields__[f"ray_{name}"].default:
                raise UserError(f"{option} is of the workers of a Ray cluster: pass --ray local, auto or an address too")
        if self.ray_gpus is not None and self.ray_gpus > 1 and self.ray_gpus != int(self.ray_gpus):
            raise UserError(f"--ray-gpus must be a fraction of one GPU or a whole number of them, not {self.ray_gpus}")

    @property
    def of_ray(self) -> dict[str, Any]:
        """These options alone, to be given on."""
        return {name: getattr(self, name) for name in RaySettings.__dataclass_fields__}
