"""Workers on a Ray cluster: actors that open a task's network and images once, do regions and return arrays.

Only this module knows Ray, which is an extra. Actors keep nothing: whoever dies is replaced, machines that join get actors.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from dynamic.errors import UserError
from dynamic.resources import cpu_count, keep_freed_memory
from oracle.data.image_source import ImageSource
from oracle.evaluation.dispatch import IN_HAND, Errand, Event, Failed, Finished, Joined, Lost, Refused, dispatched
from oracle.evaluation.jobs import Compute, Result, Task, load
from oracle.evaluation.portable import PortableTask
from oracle.ray_settings import RaySettings

POLL = 1.0
"""Seconds between looks at whether machines have joined."""

PATIENCE = 30.0
"""Seconds without any worker after which it is said what is being waited for."""

OPEN = 2
"""Tasks that a worker has open: one that ends and one that begins."""

STILLBORN = 10
"""Workers that may end, one after the other, before any is ready."""


@contextmanager
def cluster(settings: RaySettings) -> Iterator[None]:
    """Be connected to the Ray cluster that ``settings.ray`` names, if it names one.

    Raises:
        UserError: Ray is not installed, does not start, or no cluster is there.
    """
    if not settings.ray:
        yield
        return
    ray = _ray()
    if ray.is_initialized():  # a program's own connection, which stays
        yield
        return
    local = settings.ray == "local"
    options: dict[str, Any] = {"num_cpus": cpu_count(), "include_dashboard": False} if local else {}
    if local:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: beside other work its workers would hardly run
    try:
        _knock(settings.ray)
        ray.init(address=settings.ray, log_to_driver=False, logging_level="error", **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"--ray {settings.ray}: no Ray cluster there ({str(error).splitlines()[0]}): start one with ray start --head, "
            "with the RAY_AUTH_MODE and token that this process has, or pass --ray local"
        ) from error
    except Exception as error:
        if type(error) is not Exception:  # which is what Ray raises where its processes are not there after 30 s
            raise
        ray.shutdown()
        raise UserError(
            f"--ray {settings.ray}: Ray did not start ({str(error).splitlines()[0]}): where the machine is busy or short of "
            "memory, try again later"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT; Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install 'learned-selector[ray]'") from error
    return ray


class _Unopened(Exception):  # noqa: N818 - an answer, which says in one line why a worker cannot work
    """A task's network or images cannot be opened where the worker is."""


class _Worker:
    """The actor. Its two threads read one region while the other computes."""

    def __init__(self, cores: int) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)
        self._cores, self._opening, self._computing = cores, threading.Lock(), threading.Lock()
        self._opened: dict[int, tuple[ImageSource, Compute[Any]]] = {}

    def open(self, task: int, sent: list[Any]) -> tuple[ImageSource, Compute[Any]]:
        """Open a task, unless it is, and forget older ones; ``sent`` is a reference to it."""
        with self._opening:
            if task not in self._opened:
                portable: PortableTask[Any] = _ray().get(sent[0])
                try:
                    opened = portable.open(self._cores)
                except Exception as error:
                    line = " ".join(str(error).split())
                    raise _Unopened(line if isinstance(error, UserError) else f"{type(error).__name__}: {line}") from None
                latest = [*self._opened.items()][1 - OPEN :]
                self._opened = dict([*latest, (task, opened)])
            return self._opened[task]

    def ready(self, task: int, sent: list[Any]) -> None:
        """As :meth:`open`; what is open stays here."""
        self.open(task, sent)

    def do(self, errand: Errand, sent: list[Any]) -> Any:
        """Do an errand of a task, which is opened first if need be."""
        source, compute = self.open(errand.task, sent)
        batch = load(source, errand.rows, errand.without)
        with self._computing:
            return compute(errand.rows, batch)


class RayWorkers:
    """See :class:`oracle.evaluation.dispatch.Workers`; to be used within :func:`cluster`.

    Args:
        tasks: whose regions they do.
        settings: what each of them gets.
        tell: takes lines for people.
        count: is told how many workers there are.
    """

    def __init__(
        self,
        tasks: Sequence[Task[Any]],
        settings: RaySettings,
        tell: Callable[[str], None],
        count: Callable[[int], None],
    ) -> None:
        self._ray = _ray()
        self._settings, self._tell, self._count = settings, tell, count
        gpus = settings.ray_gpus
        if gpus is None:
            gpus = 1 if torch.device(tasks[0].settings.device).type == "cuda" else 0
        self._needs = {"CPU": settings.ray_cpus, "GPU": gpus, "memory": (settings.ray_memory_gib or 0) * 2**30}
        self._actor = self._ray.remote(_Worker).options(
            num_cpus=settings.ray_cpus,
            num_gpus=gpus,
            memory=self._needs["memory"] or None,
            max_concurrency=IN_HAND,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )
        self._tasks, self._sent, self._latest = tasks, dict[int, Any](), 0
        most = sum(len(task.regions) for task in tasks)
        self._most = min(most, settings.ray_workers or most)
        self._actors: dict[int, Any] = {}
        self._opening: dict[Any, int] = {}
        self._running: dict[Any, tuple[int, Errand]] = {}
        self._refused: list[Any] = []
        self._asked = 0
        self._stillborn = 0
        self._last_seen = time.monotonic()
        if settings.ray == "local" and not self._room():
            raise UserError(f"this machine has no room for a worker of {self._needed}: see --ray-cpus, -gpus, -memory-gib")

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in (*self._actors.values(), *self._refused):
            self._ray.kill(actor)

    def give(self, worker: int, errand: Errand) -> None:
        """Start an errand on a worker."""
        self._latest = errand.task
        self._running[self._actors[worker].do.remote(errand, self._send(errand.task))] = (worker, errand)

    def _send(self, task: int) -> list[Any]:
        """A reference to a task, in a list, so that it is fetched once a worker and not with every errand."""
        if task not in self._sent:
            latest = [*self._sent.items()][1 - OPEN :]  # those that workers have still to fetch live on with their errands
            self._sent = dict([*latest, (task, self._ray.put(PortableTask.of(self._tasks[task])))])
        return [self._sent[task]]

    def dismiss(self, worker: int) -> None:
        """End a worker; the cluster's next one takes its place."""
        self._ray.kill(self._actors[worker])
        self._forget(worker)

    def events(self) -> Sequence[Event]:
        """Wait for something to happen; meanwhile ask for workers where there is room."""
        while True:
            self._ask()
            ready, _ = self._ray.wait([*self._opening, *self._running], num_returns=1, timeout=POLL)
            happened = [event for one in ready if (event := self._happened(one)) is not None]
            if happened:
                return happened
            self._grumble()

    def _ask(self) -> None:
        """Ask for as many workers as there is room for, and for one more: where the cluster can grow, it does."""
        wanted = self._most if self._settings.ray_workers else max(self._room() - len(self._refused), len(self._ready) + 1)
        while len(self._actors) < min(wanted, self._most):
            self._asked += 1
            cores = max(1, int(self._settings.ray_cpus))
            actor = self._actor.remote(cores)
            self._actors[self._asked] = actor
            self._opening[actor.ready.remote(self._latest, self._send(self._latest))] = self._asked

    @property
    def _ready(self) -> set[int]:
        return self._actors.keys() - set(self._opening.values())

    def _room(self) -> int:
        """Workers that the cluster's machines hold now."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(name, 0) / need + 1e-9) for name, need in self._needs.items() if need) for node in nodes)

    def _happened(self, reference: Any) -> Event | None:
        opening = reference in self._opening
        worker, errand = (self._opening.pop(reference), None) if opening else self._running.pop(reference)
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, _Unopened):
                self._refuse(worker, str(cause))
                return None if opening else Refused(worker)
            assert errand is not None, cause
            return Failed(worker, errand, cause)
        except self._ray.exceptions.RayError:  # its process or its machine
            self._forget(worker, kill=True)
            if not opening:
                return Lost(worker)
            self._stillborn += 1
            if self._stillborn == STILLBORN:
                raise UserError(
                    f"{STILLBORN} workers ended while they opened network and images: see Ray's logs, reserve more memory "
                    "with --ray-memory-gib, and give this process and the cluster the same RAY_AUTH_MODE"
                ) from None
            return None
        if errand is not None:
            return Finished(worker, errand, value)
        self._stillborn = 0
        self._count(len(self._ready))
        return Joined(worker)

    def _forget(self, worker: int, kill: bool = False) -> None:
        actor = self._actors.pop(worker)
        if kill:
            self._ray.kill(actor)
        self._running = {one: (whose, errand) for one, (whose, errand) in self._running.items() if whose != worker}
        self._count(len(self._ready))

    def _refuse(self, worker: int, reason: str) -> None:
        """Leave a worker out that cannot work. It keeps its place, so that no other is sent there."""
        self._refused.append(self._actors[worker])
        self._forget(worker)
        self._tell(f"a worker is left out: {reason}")
        if not self._ready and len(self._refused) >= max(self._room(), 1):
            raise UserError(f"no worker of the cluster can do this: {reason}")

    def _grumble(self) -> None:
        """Say what is waited for where no worker is there for long."""
        now = time.monotonic()
        if self._ready:
            self._last_seen = now
        elif now - self._last_seen > PATIENCE:
            self._tell(f"no worker is ready; each needs {self._needed}")
            self._last_seen = float("inf")

    @property
    def _needed(self) -> str:
        units = {"CPU": 1, "GPU": 1, "memory": 2**30}
        named = {"CPU": "CPU", "GPU": "GPU", "memory": "GiB of memory"}
        return ", ".join(f"{need / units[name]:g} {named[name]}" for name, need in self._needs.items() if need)


def done_on_ray(
    tasks: Sequence[Task[Result]], settings: RaySettings, progress: tqdm[NoReturn] | tqdm[Any]
) -> Generator[tuple[int, Result], None, None]:
    """See :func:`oracle.evaluation.doing.done`."""

    def tell(line: str) -> None:
        progress.write(line, file=sys.stderr)

    def count(workers: int) -> None:
        progress.set_postfix_str(f"{workers} worker{'s' * (workers != 1)}")

    regions = [(position, rows) for position, task in enumerate(tasks) for rows in task.regions]
    if regions:
        with RayWorkers(tasks, settings, tell, count) as workers:
            yield from dispatched(workers, regions)
