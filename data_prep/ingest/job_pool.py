"""Running jobs in threads of this process and in other processes, each taking the next one.

Threads come first: GDAL and NumPy do most of the work outside of the interpreter, and a thread
starts at once, where a process imports for nearly half a second. But beyond two, threads wait for
each other's interpreter, so further jobs run in processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

from data_prep.ingest import job_results
from data_prep.ingest.job_results import Job, JobResult
from data_prep.ingest.progress import Callback, reporting
from rsdgc.errors import RunError, SettingError

#: Bytes to read from which on several jobs run at a time: for less, starting takes longer.
PARALLEL_BYTES = 64 * 2**20


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    processes: int | None = None,
    threads: int = 1,
    progress: Callback | None = None,
) -> dict[str, JobResult]:
    """Run all jobs that are not done yet, several at a time where that pays.

    Parameters
    ----------
    jobs
        What to do; they are independent of each other.
    folder
        Where results are kept.
    processes
        How many jobs run at a time. Default: one a CPU, and a single one for little work.
    threads
        How many of them may run in threads of this process; the others run in processes.

    Returns
    -------
    dict
        Results by key, the same however the jobs were shared out. Of a scene that failed, some
        may be missing.
    """
    if processes is not None and processes < 1:
        raise SettingError(f"--processes is {processes}: choose at least 1")
    results = {
        job.key: result
        for job in jobs
        if (result := job_results.read_result(folder, job.key)) is not None
    }
    left = [job for job in jobs if job.key not in results]
    total = sum(job.bytes for job in jobs)
    done = total - sum(job.bytes for job in left)
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if total >= PARALLEL_BYTES else 1
    at_once = max(1, min(processes, len(left)))
    with reporting(progress) as report:
        for job, result in _run(left, folder, min(at_once, threads), max(0, at_once - threads)):
            done += job.bytes
            results[job.key] = result
            report(job.scene, done, total)
    return results


def _run(
    jobs: Sequence[Job], folder: Path, threads: int, processes: int
) -> Iterator[tuple[Job, JobResult]]:
    """Run jobs in threads and processes; yield each with its result as it ends."""
    failed: set[str] = set()
    # a generator, so that scenes that fail meanwhile are passed over
    waiting = (job for job in jobs if job.scene not in failed)
    if threads + processes == 1:
        outcomes: Iterator[tuple[Job, JobResult]] = (
            (job, job_results.run_job(folder, job)) for job in waiting
        )
    else:
        outcomes = _run_in_pools(waiting, folder, threads, processes)
    for job, result in outcomes:
        if result.error:
            failed.add(job.scene)
        yield job, result


def _run_in_pools(
    waiting: Iterator[Job], folder: Path, threads: int, processes: int
) -> Iterator[tuple[Job, JobResult]]:
    pools: list[tuple[futures.Executor, int]] = []
    running: dict[futures.Future[JobResult], tuple[Job, futures.Executor]] = {}

    def submit(pool: futures.Executor) -> None:
        """Give a pool the next job, if there is one."""
        job = next(waiting, None)
        if job is not None:
            running[pool.submit(job_results.run_job, folder, job)] = job, pool

    try:
        if processes:  # first, since they take the longest to start
            # fork would copy locks that other threads hold, such as the one that hashes the sources
            context = multiprocessing.get_context("spawn")
            workers = futures.ProcessPoolExecutor(processes, context, initializer=_start_worker)
            pools.append((workers, processes))
        pools.append((futures.ThreadPoolExecutor(threads, thread_name_prefix="jobs"), threads))
        # no pool gets more jobs than it runs, so that at the end no job waits for a busy worker
        for pool, count in pools:
            for _ in range(count):
                submit(pool)
        while running:
            for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                job, pool = running.pop(future)
                yield job, future.result()
                submit(pool)
    except futures.BrokenExecutor as error:
        raise RunError(
            "a process of the ingestion ended (out of memory?): run the same command again "
            "to go on, with fewer --processes"
        ) from error
    finally:
        for pool, _ in pools:
            # after an error no job may write once this returns; without one, the workers may end
            # while the store is put together
            pool.shutdown(wait=bool(running), cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
