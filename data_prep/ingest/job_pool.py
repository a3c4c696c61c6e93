"""Jobs done by this process and by others beside it, each taking the next one when it is free.

Work that GDAL and NumPy do outside of the interpreter is shared with a thread first, which starts
at once; a process does so only when it has imported what it needs, after nearly half a second. More
helpers are processes, which do not wait for each other's interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from data_prep.ingest import job_results
from rsdgc.errors import RunError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from data_prep.ingest.job_results import Job, JobResult
    from data_prep.progress import Callback

#: Bytes to read from which on processes are started: below, starting them takes longer.
PARALLEL_BYTES = 64 * 2**20


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    processes: int | None = None,
    threads: int = 1,
    report: Callback,
) -> dict[str, JobResult]:
    """Do all jobs that are not done yet, in several processes where that pays.

    Parameters
    ----------
    jobs
        What to do; they are independent of each other.
    folder
        Where parts are kept.
    processes
        How many jobs are done at a time. Default: one a CPU that this process may use, and a
        single one for little work.
    threads
        How many of them may be done in this process, by threads; the rest are done in others.
    report
        Called with the scene, and the bytes done and in all.

    Returns
    -------
    dict
        Part by key. Of a scene that failed some parts may be missing.

    Raises
    ------
    UnknownLabelError
        A label is not in the class list.
    RunError
        A process died.
    """
    if processes is not None and processes < 1:
        raise SettingError(f"processes is {processes}: choose at least 1")
    total = sum(job.bytes for job in jobs)
    made = {
        job.key: part
        for job in jobs
        if (part := job_results.read_result(folder, job.key)) is not None
    }
    left = [job for job in jobs if job.key not in made]
    done = total - sum(job.bytes for job in left)
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if total >= PARALLEL_BYTES else 1
    helpers = max(0, min(processes, len(left)) - 1)
    beside = min(helpers, threads - 1)
    for job, part in _run(left, folder, beside, helpers - beside):
        done += job.bytes
        made[job.key] = part
        report(job.scene, done, total)
    return made


def _run(
    jobs: Sequence[Job], folder: Path, threads: int, processes: int
) -> Iterator[tuple[Job, JobResult]]:
    """Do jobs here, in more threads and in more processes, in whatever order they end."""
    sharing = _Sharing(jobs, folder)
    pools: list[Executor] = []
    whole = False
    try:
        if processes:
            context = multiprocessing.get_context("spawn")
            pools.append(ProcessPoolExecutor(processes, context, initializer=_as_helper))
        if threads:
            pools.append(ThreadPoolExecutor(threads, thread_name_prefix="jobs"))
        for pool, count in zip(pools, filter(None, (processes, threads)), strict=True):
            for _ in range(count):
                sharing.send(pool)
        yield from sharing.run()
        whole = True
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the ingestion ended (out of memory?): run the same command again "
            "to go on, with fewer --processes"
        ) from error
    finally:
        sharing.stop()
        for pool in pools:
            # all done: they may end while the store is put together; else nobody writes after this
            pool.shutdown(wait=not whole, cancel_futures=True)


class _Sharing:
    """Jobs that are waiting, and those that are away in other threads and processes.

    A job is handed out only when somebody is free for it, so that at the end nobody waits for
    longer than one job takes. Whoever hands a result back gets the next one there and then.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting = deque(jobs)
        self._failed: set[str] = set()
        self._away = 0
        self._back: SimpleQueue[tuple[Job, Future[JobResult]]] = SimpleQueue()

    def run(self) -> Iterator[tuple[Job, JobResult]]:
        """Do jobs here until none is waiting; give them and those of the others."""
        while (job := self._take()) is not None:
            yield job, self._noted(job, job_results.run_job(self._folder, job))
            while (returned := self._returned(wait=False)) is not None:
                yield returned
        while (returned := self._returned(wait=True)) is not None:
            yield returned

    def send(self, pool: Executor) -> None:
        """Give a pool the next job, if one is waiting."""
        with self._lock:
            job = self._next()
            if job is None:
                return
            future = pool.submit(job_results.run_job, self._folder, job)
            self._away += 1
        future.add_done_callback(partial(self._receive, pool, job))

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._lock:
            self._waiting.clear()

    def _receive(self, pool: Executor, job: Job, future: Future[JobResult]) -> None:
        # in a thread of the pool; the next job is counted before this one is taken off
        if not future.cancelled() and future.exception() is None:
            self._noted(job, future.result())
            # of a process that died its own job tells
            with suppress(BrokenProcessPool):
                self.send(pool)
        self._back.put((job, future))

    def _take(self) -> Job | None:
        with self._lock:
            return self._next()

    def _next(self) -> Job | None:
        """Take the first job that is waiting and whose scene has not failed."""
        while self._waiting:
            job = self._waiting.popleft()
            if job.scene not in self._failed:
                return job
        return None

    def _returned(self, *, wait: bool) -> tuple[Job, JobResult] | None:
        """Give a job that has come back; None if there is none, and none is waited for."""
        if not self._away:
            return None
        try:
            job, future = self._back.get(block=wait)
        except Empty:
            return None
        with self._lock:
            self._away -= 1
        return job, future.result()

    def _noted(self, job: Job, part: JobResult) -> JobResult:
        if part.error:
            self._failed.add(job.scene)
        return part


def _as_helper() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
