"""A pool of Ray actors that work through tasks, and the recovery from those that die."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from armorm.errors import ArmormError, MissingExtraError
from armorm.jobs.answers import answer, result_of

MOST_ATTEMPTS = 4
"""Number of workers that may die at a task before the run ends."""

Task = Mapping[str, Any]
"""Plain data; ``number`` identifies it."""


@runtime_checkable
class Job(Protocol):
    """Work of the pool. It is created in each worker, from settings that are plain data."""

    def __init__(self, settings: Mapping[str, Any]) -> None: ...

    def describe(self) -> dict[str, Any]:
        """Return the facts on the model that the driver needs; loads the model."""

    def make(self, task: Task) -> dict[str, Any]:
        """Do one task, whose results are files, and return its counts."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Number of workers, and the GPUs of each.

    Attributes:
        count: Default: one for each GPU (or each ``gpus``); where there is none, one for each
            machine, which gets all its cores.
        gpus: GPUs of each worker.  More than 1 for models that need several
            (``device_map=auto``), less than 1 for small models that share one.  Default: 1 where
            the cluster has any.
    """

    count: int | None = None
    gpus: float | None = None

    def fitted(self, machines: list[Mapping[str, float]]) -> FittedWorkers:
        """Fit the workers into these machines, each given by its ``CPU`` and ``GPU``.

        Raises:
            ArmormError: no machine can hold a worker.
        """
        gpus = self.gpus
        if gpus is None:
            gpus = 1.0 if any(machine.get("GPU") for machine in machines) else 0.0
        if gpus:
            room = sum(int(machine.get("GPU", 0) / gpus) for machine in machines)
            fitted = FittedWorkers(self.count or room, 1, gpus)
        else:
            cores = [int(machine.get("CPU", 0)) for machine in machines]
            count = self.count or sum(map(bool, cores))
            fitted = FittedWorkers(count, _cores_each(cores, count), 0.0)
        if not any(fitted.fits(machine) for machine in machines):
            seen = ", ".join(
                f"{m.get('CPU', 0):g} cores and {m.get('GPU', 0):g} GPUs" for m in machines
            )
            raise ArmormError(
                f"A worker needs {fitted.cpus} cores and {gpus:g} GPUs, but the machines have: "
                f"{seen}. Choose other --worker-gpus, or start Ray with more."
            )
        return fitted


@dataclass(frozen=True, slots=True)
class FittedWorkers:
    """Number of workers, with the cores and GPUs of each."""

    count: int
    cpus: int
    gpus: float

    def fits(self, machine: Mapping[str, float]) -> bool:
        """Return true if one worker fits into the machine."""
        return machine.get("CPU", 0) >= self.cpus and machine.get("GPU", 0) >= self.gpus


def _cores_each(cores: list[int], workers: int) -> int:
    """Return the most cores that each of so many workers can have; 1 where there are too many."""
    for each in range(max(cores, default=1), 1, -1):
        if sum(machine // each for machine in cores) >= workers:
            return each
    return 1


class Pool:
    """Workers on the cluster this process is connected to; made by :func:`ray_pool`."""

    def __init__(self, workers: FittedWorkers) -> None:
        self.workers = workers

    def describe(self, job: type[Job], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a worker for the facts on the model: the driver need not load it, nor have a GPU."""
        import ray

        size = {"num_cpus": self.workers.cpus, "num_gpus": self.workers.gpus}
        described = ray.remote(_describe).options(**size).remote(job, dict(settings), _here())
        with _readable_failures():
            return result_of(ray.get(described))

    def work(
        self, job: type[Job], settings: Mapping[str, Any], tasks: Iterable[Task]
    ) -> Iterator[dict[str, Any]]:
        """Do all tasks and yield what :meth:`Job.make` returned, in the order they are done.

        A task whose worker died is done again by another one.  Tasks are begun in their order.

        Raises:
            ArmormError: the first that a worker raised, or a task takes every worker with it.
        """
        import pyarrow as pa
        import ray
        from ray.data import ActorPoolStrategy

        blocks = [pa.table({"task": [json.dumps(task)]}) for task in tasks]
        if not blocks:
            return
        attempts = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1).remote()
        answers = ray.data.from_arrow(blocks).map_batches(
            _Worker,
            fn_constructor_args=(job, dict(settings), _here(), attempts),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(self.workers.count, len(blocks))),
            num_cpus=self.workers.cpus,
            num_gpus=self.workers.gpus,
        )
        with _readable_failures():
            for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
                for text in batch["answer"].to_pylist():
                    yield result_of(text)


class _Worker:
    """An actor of the pool. It restarts when its process dies, and loads the model again.

    The model is loaded with the first task, so that what is wrong with it is an answer too.
    """

    def __init__(
        self, job: type[Job], settings: Mapping[str, Any], folder: str, attempts: Any
    ) -> None:
        _enter(folder)
        self._new_job = job
        self._settings = settings
        self._attempts = attempts
        self._job: Job | None = None

    def __call__(self, batch: Any) -> Any:
        import pyarrow as pa

        texts = [answer(lambda: self._make(json.loads(task))) for task in batch["task"].to_pylist()]  # noqa: B023
        return pa.table({"answer": texts})

    def _make(self, task: Task) -> dict[str, Any]:
        import ray

        if ray.get(self._attempts.begin.remote(task["number"])) > MOST_ATTEMPTS:
            raise ArmormError(
                f"{MOST_ATTEMPTS} workers died at task {task['number']}. Is there too little "
                "memory? Give each worker more (fewer --workers), or lower the batch tokens. What "
                "is done stays."
            )
        if self._job is None:
            self._job = self._new_job(self._settings)
        return self._job.make(task)


class _Attempts:
    """An actor that counts how often each task was begun."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self._begun[number] += 1
        return self._begun[number]


@contextmanager
def ray_pool(workers: Workers) -> Iterator[Pool]:
    """Yield a pool on the Ray cluster of this process, else on that of ``RAY_ADDRESS``, else local.

    Raises:
        MissingExtraError: Ray is not installed.
        ArmormError: the cluster cannot be reached, or has no room for a worker.
    """
    for name, quiet in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(name, quiet)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("--on ray", "scale") from error
    # Ray prints what it says of dead workers; standard output is for results.
    with redirect_stdout(sys.stderr), _connection():
        _keep_quiet()
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield Pool(workers.fitted(machines))


@contextmanager
def _connection() -> Iterator[None]:
    """Connect to Ray for the block; keep a connection that was there before."""
    import ray

    if ray.is_initialized():
        yield
        return
    _check_answers(os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ArmormError(
            f"The Ray cluster cannot be reached: {error}. Is RAY_ADDRESS right? Does the cluster "
            "want a token (RAY_AUTH_MODE=token)?"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise ArmormError where nothing listens at a host and port: Ray would try for ten minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ArmormError(
            f"The Ray cluster cannot be reached: nothing answers at {address} ({error}). Is "
            "RAY_ADDRESS right?"
        ) from error


def _keep_quiet() -> None:
    """Silence Ray's own progress bars and logs."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@contextmanager
def _readable_failures() -> Iterator[None]:
    """Raise readable errors for workers that died; errors in the code of a worker stay."""
    from ray.exceptions import RayActorError, RaySystemError, WorkerCrashedError

    try:
        yield
    except (RayActorError, RaySystemError, WorkerCrashedError) as error:
        raise ArmormError(
            f"A worker died and could not be replaced: {error}. What is done stays; the same "
            "command goes on."
        ) from error


def _describe(job: type[Job], settings: Mapping[str, Any], folder: str) -> str:
    _enter(folder)
    return answer(lambda: job(settings).describe())


def _here() -> str:
    return str(Path.cwd())


def _enter(folder: str) -> None:
    """Change to the folder of the command, so that relative paths mean the same."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
