"""The shop floor at work: a thread that takes open jobs step by step at a commanded pace."""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tests.plant.book import Publication
from tests.plant.mes_book import Job, MesBook

Perform = Callable[[Job, datetime], Sequence[Publication]]


class Execution:
    """Steps of one job follow each other; different jobs overlap. What is open in the book goes on after a restart."""

    def __init__(self, book: MesBook, perform: Perform, *, published: Callable[[], None]) -> None:
        self._book = book
        self._perform = perform
        self._published = published
        self._change = threading.Condition()
        self._due: list[tuple[float, int, Job]] = []
        self._newest = 0
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="shop floor", daemon=True)
        self.pace = 0.05
        self.is_held = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._change:
            self._is_over = True
            self._change.notify()
        self._thread.join(timeout=0.7)

    def wake(self) -> None:
        """Say that the book holds a new job."""
        with self._change:
            self._change.notify()

    def set_pace(self, *, seconds: float | None = None, held: bool | None = None) -> None:
        """Seconds between two steps of a job; while held, nothing is carried out."""
        with self._change:
            self.pace = self.pace if seconds is None else seconds
            self.is_held = self.is_held if held is None else held
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                self._take_new_jobs()
                while not self._is_over and (wait := self._seconds_to_next()) != 0:
                    self._change.wait(wait)
                    self._take_new_jobs()
                if self._is_over:
                    return
                _, _, job = heapq.heappop(self._due)
            self._take_step(job)

    def _take_new_jobs(self) -> None:
        for job in self._book.open_jobs(after=self._newest):
            self._newest = job.n
            heapq.heappush(self._due, (time.monotonic() + self.pace, job.n, job))

    def _seconds_to_next(self) -> float | None:
        """None: nothing is due until someone says so."""
        if self.is_held or not self._due:
            return None
        return max(0.0, self._due[0][0] - time.monotonic())

    def _take_step(self, job: Job) -> None:
        now = datetime.now(UTC)
        self._book.finish_step(job, at=now, publications=self._perform(job, now))
        self._published()
        further = replace(job, steps_done=job.steps_done + 1, changed_at=now)
        if further.steps_done < further.steps:
            with self._change:
                heapq.heappush(self._due, (time.monotonic() + self.pace, job.n, further))
