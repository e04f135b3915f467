"""Where the parts of a stage are worked on: here, in a pool of processes, or with Ray."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from terraprompt.errors import ConfigError, OutputError

__all__ = ["EXECUTORS", "Run", "running"]

EXECUTORS = ("local", "ray")
Task = Callable[[], int]
Told = Callable[[int], None]
Run = Callable[[Sequence[Task], Told], None]


@contextmanager
def running(name: str, jobs: int) -> Iterator[Run]:
    """What runs tasks, with the same workers from the first stage to the last.

    Each task writes its own file, so that order and place do not matter.

    Args:
        name: one of :data:`EXECUTORS`.
        jobs: processes; 1 with "local" stays in this one.

    Raises:
        ConfigError: unknown, or Ray is not installed.
    """
    if name not in EXECUTORS:
        raise ConfigError("There is no such executor.", received=name, hint=f"Executors: {', '.join(EXECUTORS)}.")
    if name == "ray":
        yield _with_ray(jobs)
    elif jobs == 1:
        yield _here
    else:
        # spawn: a fork of a process with open rasters and running threads may hang
        pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
        try:
            yield lambda tasks, told: _pooled(pool, tasks, told)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _here(tasks: Sequence[Task], told: Told) -> None:
    for number, task in enumerate(tasks, 1):
        task()
        told(number)


def _pooled(pool: ProcessPoolExecutor, tasks: Sequence[Task], told: Told) -> None:
    try:
        futures = [pool.submit(_call, task) for task in tasks]
        for number, future in enumerate(as_completed(futures), 1):
            future.result()
            told(number)
    except BrokenProcessPool as error:
        raise OutputError(
            "A worker process was killed, perhaps for its memory.",
            hint="What is done stays: go on with --resume, with fewer jobs.",
        ) from error


def _call(task: Task) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return task()


def _with_ray(jobs: int) -> Run:
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise ConfigError(
            "Ray is not installed.", hint='Install it with: pip install "terraprompt[scale]"; or use --executor local.'
        ) from None

    def run(tasks: Sequence[Task], told: Told) -> None:
        if not tasks:
            return
        if not ray.is_initialized():
            ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False)
        call = ray.remote(_call)
        waiting = [call.remote(task) for task in tasks]
        done = 0
        try:
            while waiting:
                ready, waiting = ray.wait(waiting)
                for reference in ready:
                    try:
                        ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause or error from None
                    done += 1
                    told(done)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    return run
