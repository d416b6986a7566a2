"""Where the jobs of a benchmark are run: processes of this machine, or a SLURM cluster."""

import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol


class Launcher(Protocol):
    """What runs jobs; a ``_target_`` in ``conf/launcher`` makes one."""

    def __call__(self, run: Callable[[Any], dict], jobs: Sequence[Any], failed: Callable[[Any, str], dict]) -> Iterator[dict]:
        """Records of all jobs as they are finished; `failed` makes that of a job whose process died, from the job and why."""
        ...


def n_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # there is no such thing on macOS
        return os.cpu_count() or 1


def has_gpu() -> bool:
    """Whether this process may use an NVIDIA GPU, found without importing torch."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and any(Path("/dev").glob("nvidia[0-9]*"))


def _limit_threads(threads: int) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)  # before the libraries that read them
    import torch

    torch.set_num_threads(threads)


class LocalPool:
    """Worker processes that take one job after the other; a process that dies takes its job with it and no other.

    Parameters
    ----------
    workers
        Processes; None is one for each core up to 8, or one where there is a GPU.
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers

    def __call__(self, run: Callable[[Any], dict], jobs: Sequence[Any], failed: Callable[[Any, str], dict]) -> Iterator[dict]:
        n = min(len(jobs), self.workers or (1 if has_gpu() else min(8, n_cores())))
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        done: queue.SimpleQueue = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)

        def work() -> None:
            pool = None
            while True:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    break
                pool = pool or ProcessPoolExecutor(1, get_context("spawn"), _limit_threads, (max(1, n_cores() // n),))
                try:
                    done.put((job, pool.submit(run, job).result(), None))
                except BrokenProcessPool:
                    done.put((job, None, "the process died without a word: most often it ran out of memory"))
                    pool = None
                except Exception as error:
                    done.put((job, None, f"{type(error).__name__}: {error}"))
            if pool is not None:
                pool.shutdown()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(n)]
        for thread in threads:
            thread.start()
        for _ in jobs:
            job, record, why = done.get()
            yield record if why is None else failed(job, why)


class Slurm:
    """A SLURM job for each job of the grid, by submitit (``pip install 'bmfm[slurm]'``).

    Parameters
    ----------
    folder
        Where submitit keeps its files; shared by all nodes.
    cluster
        ``slurm``; ``local`` tries the same on this machine.
    settings
        Of `submitit.AutoExecutor.update_parameters`: ``timeout_min``, ``gpus_per_node``, ``slurm_partition``, ...
    """

    def __init__(self, folder: str, cluster: str = "slurm", **settings: Any):
        self.folder, self.cluster, self.settings = folder, cluster, settings

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
