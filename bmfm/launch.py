"""Where jobs are run, whether runs of a benchmark or workers that share the shards of one command: processes of this machine, SLURM, Ray."""

import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from bmfm.ledger import Ledger


class Launcher(Protocol):
    """What runs jobs; a ``_target_`` in ``conf/launcher`` makes one."""

    @property
    def n_workers(self) -> int:
        """Workers that share the shards of one command."""
        ...

    def __call__(self, run: Callable[[Any], dict], jobs: Sequence[Any], failed: Callable[[Any, str], dict]) -> Iterator[dict]:
        """Records of all jobs as they are finished; `failed` makes that of a job whose process died, from the job and why."""
        ...


def n_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # there is no such thing on macOS
        return os.cpu_count() or 1


def n_threads(processes: int) -> int:
    """Of each of so many processes: its share of the cores, or fewer where ``OMP_NUM_THREADS`` says so, as other work is on them."""
    share, allowed = max(1, n_cores() // processes), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) else share


def gpus() -> list[str]:
    """Numbers of the NVIDIA GPUs that this process may use, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _prepare_process(threads: int, gpu: str | None) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)  # before the libraries that read them
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    torch.set_num_threads(threads)


class LocalPool:
    """Worker processes that take one job after the other; a process that dies takes its job with it and no other.

    Parameters
    ----------
    workers
        Processes; None is one for each GPU or, where there is none, one for each core up to 8. They share the GPUs.
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers

    @property
    def n_workers(self) -> int:
        return self.workers or len(gpus()) or min(8, n_cores())

    def __call__(self, run: Callable[[Any], dict], jobs: Sequence[Any], failed: Callable[[Any, str], dict]) -> Iterator[dict]:
        n, cards = min(len(jobs), self.n_workers), gpus()
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        done: queue.SimpleQueue = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)

        def work(number: int) -> None:
            pool = None
            settings = n_threads(n), cards[number % len(cards)] if len(cards) > 1 else None
            while True:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    break
                pool = pool or ProcessPoolExecutor(1, get_context("spawn"), _prepare_process, settings)
                try:
                    done.put((job, pool.submit(run, job).result(), None))
                except BrokenProcessPool:
                    done.put((job, None, "the process died without a word: most often it ran out of memory"))
                    pool = None
                except Exception as error:
                    done.put((job, None, f"{type(error).__name__}: {error}"))
            if pool is not None:
                pool.shutdown()

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(n)]
        for thread in threads:
            thread.start()
        for _ in jobs:
            job, record, why = done.get()
            yield record if why is None else failed(job, why)


class Slurm:
    """A SLURM job for each job, by submitit (``pip install 'bmfm[slurm]'``).

    Parameters
    ----------
    folder
        Where submitit keeps its files; shared by all nodes.
    cluster
        ``slurm``; ``local`` tries the same on this machine.
    workers
        Jobs that share the shards of one command; those of a benchmark are as many as it has runs.
    settings
        Of `submitit.AutoExecutor.update_parameters`: ``timeout_min``, ``gpus_per_node``, ``slurm_partition``, ...
    """

    def __init__(self, folder: str, cluster: str = "slurm", workers: int = 8, **settings: Any):
        self.folder, self.cluster, self.n_workers, self.settings = folder, cluster, workers, settings

    def __call__(self, run: Callable[[Any], dict], jobs: Sequence[Any], failed: Callable[[Any, str], dict]) -> Iterator[dict]:
        try:
            import submitit
        except ImportError as error:
            raise ImportError("launcher=slurm needs submitit: pip install 'bmfm[slurm]'") from error
        executor = submitit.AutoExecutor(self.folder, cluster=self.cluster)
        executor.update_parameters(**self.settings)
        submitted = executor.map_array(run, jobs)
        job_of = {id(s): job for s, job in zip(submitted, jobs, strict=True)}
        for finished in submitit.helpers.as_completed(submitted):
            try:
                yield finished.result()
            except Exception as error:
                errors = re.findall(r"^\w*(?:Error|Exception)\b.*", str(error), re.MULTILINE)  # submitit's own words hold a traceback
                yield failed(job_of[id(finished)], errors[-1] if errors else f"{type(error).__name__}: {error}")


class Ray:
    """A task of a Ray cluster for each job (``pip install 'bmfm[scale]'``); Ray runs a task again whose node was lost.

    Parameters
    ----------
    address
        Of the cluster: ``auto`` finds the running one; None starts one on this machine for as long as this takes.
    workers
        Tasks that share the shards of one command; those of a benchmark are as many as it has runs.
    retries
        How often a task is run again whose process or node died.
    settings
        What a task needs: ``num_cpus``, ``num_gpus``, ``resources``, ... of ``ray.remote``.
    """

    def __init__(self, address: str | None = "auto", workers: int = 8, retries: int = 3, **settings: Any):
        self.address, self.n_workers, self.retries, self.settings = address, workers, retries, settings

    def __call__(self, run: Callable[[Any], dict], jobs: Sequence[Any], failed: Callable[[Any, str], dict]) -> Iterator[dict]:
        try:
            import ray
        except ImportError as error:
            raise ImportError("launcher=ray needs Ray: pip install 'bmfm[scale]'") from error

        def task(job: Any) -> dict:
            return run(job)

        is_ours = not ray.is_initialized()
        if is_ours:
            ray.init(self.address or "local", log_to_driver=False, include_dashboard=False if self.address is None else None)
        try:
            remote = ray.remote(max_retries=self.retries, **self.settings)(task)
            job_of = {remote.remote(job): job for job in jobs}
            waiting = list(job_of)
            while waiting:
                (finished,), waiting = ray.wait(waiting, num_returns=1)
                try:
                    yield ray.get(finished)
                except Exception as error:
                    why = (str(error).strip().splitlines() or [""])[-1]  # a traceback stands before it
                    yield failed(job_of[finished], f"{type(error).__name__}: {why}")
        finally:
            if is_ours:
                ray.shutdown()


def share(config: Any, run: Callable[[Any, Ledger], None], ledger: Ledger) -> None:
    """Start the workers that a configuration asks for (``launcher``), and wait for their end; a worker that fails is reported, and what it left
    undone is done by others, or by whoever puts the shards together.

    Parameters
    ----------
    config
        The composed configuration of a command. Without a launcher nothing is done.
    run
        The command, called in each worker with its configuration and the worker's ledger.
    """
    from omegaconf import OmegaConf

    from bmfm.cli import instantiate

    if config.get("launcher") is None:
        return
    launcher: Launcher = instantiate(config.launcher, _convert_="all")
    settings: Any = OmegaConf.to_container(config, resolve=True)
    work = partial(_work, run, settings | {"launcher": None, "progress": False}, replace(ledger, is_worker=True))
    before = ledger.n_finished()
    print(f"{launcher.n_workers} workers begin, {before} shards are finished")
    for record in launcher(work, range(launcher.n_workers), lambda number, why: {"worker": number, "why": why}):
        if "why" in record:
            print(f"bmfm: worker {record['worker']} ended early: {record['why']}", file=sys.stderr)
    print(f"the workers ended, {ledger.n_finished() - before} more shards are finished")


def _work(run: Callable[[Any, Ledger], None], settings: dict, ledger: Ledger, number: int) -> dict:
    from omegaconf import OmegaConf

    if ledger.is_there():  # or else another command put the shards together while this worker waited for its place
        with redirect_stdout(sys.stderr):
            run(OmegaConf.create(settings), ledger)
    return {"worker": number}
