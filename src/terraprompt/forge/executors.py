"""Where the parts of a stage are worked on: here, in a pool of processes, or with Ray."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from terraprompt.errors import ConfigError, OutputError

__all__ = ["EXECUTORS", "executor_of"]

EXECUTORS = ("local", "ray")
Task = Callable[[], int]
Told = Callable[[int], None]
Run = Callable[[Sequence[Task], Told], None]


def executor_of(name: str, jobs: int) -> Run:
    """What runs tasks; each writes its own file, so that order and place do not matter.

    Args:
        name: one of :data:`EXECUTORS`.
        jobs: processes; 1 with "local" stays in this one.

    Raises:
        ConfigError: unknown, or Ray is not installed.
    """
    if name not in EXECUTORS:
        raise ConfigError("There is no such executor.", received=name, hint=f"Executors: {', '.join(EXECUTORS)}.")
    if name == "ray":
        return _with_ray(jobs)
    return _here if jobs == 1 else _pool(jobs)


def _here(tasks: Sequence[Task], told: Told) -> None:
    for number, task in enumerate(tasks, 1):
        task()
        told(number)


def _pool(jobs: int) -> Run:
    def run(tasks: Sequence[Task], told: Told) -> None:
        if not tasks:
            return
        # spawn: a fork of a process with open rasters and running threads may hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
            futures = [pool.submit(_call, task) for task in tasks]
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    future.result()
                    told(number)
            except BrokenProcessPool as error:
                raise OutputError(
                    "A worker process was killed, perhaps for its memory.",
                    hint="What is done stays: go on with --resume, with fewer jobs.",
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                wait(futures, return_when=FIRST_EXCEPTION)
                raise

    return run


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
        try:
            done = 0
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
