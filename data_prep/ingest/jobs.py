"""Jobs done by this process and by others beside it, each taking the next one when it is free."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from data_prep.ingest import parts
from rsdgc.errors import RunError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from data_prep.ingest.parts import Job, Part
    from data_prep.progress import Callback

#: Bytes to read from which on processes are started: below, starting them takes longer.
PARALLEL_BYTES = 64 * 2**20


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    processes: int | None = None,
    report: Callback,
) -> dict[str, Part]:
    """Do all jobs that are not done yet, in several processes where that pays.

    Parameters
    ----------
    jobs
        What to do; they are independent of each other.
    folder
        Where parts are kept.
    processes
        This one among them. Default: one a CPU that this process may use, and a single one for
        little work.
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
    made = {job.key: part for job in jobs if (part := parts.read_part(folder, job.key)) is not None}
    left = [job for job in jobs if job.key not in made]
    done = total - sum(job.bytes for job in left)
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if total >= PARALLEL_BYTES else 1
    for job, part in _run(left, folder, max(0, min(processes, len(left)) - 1)):
        done += job.bytes
        made[job.key] = part
        report(job.scene, done, total)
    return made


def _run(jobs: Sequence[Job], folder: Path, helpers: int) -> Iterator[tuple[Job, Part]]:
    """Do jobs here and in other processes, in whatever order they end."""
    if not helpers:
        yield from _Sharing(jobs, folder, None).run()
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(helpers, mp_context=context, initializer=_as_helper)
    sharing = _Sharing(jobs, folder, pool)
    whole = False
    try:
        for _ in range(helpers):
            sharing.send()
        yield from sharing.run()
        whole = True
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the ingestion ended (out of memory?): run the same command again "
            "to go on, with fewer --processes"
        ) from error
    finally:
        sharing.stop()
        # all done: they may end while the store is put together; else nobody writes after this
        pool.shutdown(wait=not whole, cancel_futures=True)


class _Sharing:
    """Jobs that are waiting, and those that are away in other processes.

    A job is handed out only when somebody is free for it, so that at the end nobody waits for
    longer than one job takes. The pool's own thread hands a process its next one.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path, pool: ProcessPoolExecutor | None) -> None:
        self._folder = folder
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting = deque(jobs)
        self._failed: set[str] = set()
        self._away = 0
        self._back: SimpleQueue[tuple[Job, Future[Part]]] = SimpleQueue()

    def run(self) -> Iterator[tuple[Job, Part]]:
        """Do jobs here until none is waiting; give them and those of the others."""
        while (job := self._take()) is not None:
            yield job, self._noted(job, parts.make_part(self._folder, job))
            while (returned := self._returned(wait=False)) is not None:
                yield returned
        while (returned := self._returned(wait=True)) is not None:
            yield returned

    def send(self) -> None:
        """Give a process of the pool its next job, if one is waiting."""
        assert self._pool is not None
        with self._lock:
            job = self._next()
            if job is None:
                return
            future = self._pool.submit(parts.make_part, self._folder, job)
            self._away += 1
        future.add_done_callback(partial(self._receive, job))

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._lock:
            self._waiting.clear()

    def _receive(self, job: Job, future: Future[Part]) -> None:
        # in the pool's thread; the next job is counted before this one is taken off
        if not future.cancelled() and future.exception() is None:
            if future.result().error:
                self._failed.add(job.scene)
            # of a process that died its own job tells
            with suppress(BrokenProcessPool):
                self.send()
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

    def _returned(self, *, wait: bool) -> tuple[Job, Part] | None:
        """Give a job that has come back; None if there is none, and none is waited for."""
        if not self._away:
            return None
        try:
            job, future = self._back.get(block=wait)
        except Empty:
            return None
        with self._lock:
            self._away -= 1
        return job, self._noted(job, future.result())

    def _noted(self, job: Job, part: Part) -> Part:
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
