"""The window of a rule: the mean of its score over some time, in constant memory."""

from __future__ import annotations

from collections import deque
from typing import Final

MIN_COVERAGE: Final = 0.8
BUCKETS: Final = 10
"""Parts of the window of a mean."""


class Window:
    """The mean of a score over the last `span_s` of observed time, in constant memory."""

    def __init__(self, span_s: float) -> None:
        self._bucket_s = span_s / BUCKETS
        self._buckets: deque[tuple[float, float]] = deque(maxlen=BUCKETS)  # sum of score x time, judged time
        self._sum = self._judged_s = self._elapsed_s = 0.0
        self._mean: float | None = None
        self._are_buckets_empty = True

    def add(self, score: float | None, seconds: float) -> None:
        """Add a time with a score, or one that could not be judged."""
        self._elapsed_s += seconds
        if score is not None:
            self._sum += score * seconds
            self._judged_s += seconds
        if self._elapsed_s >= self._bucket_s:
            self._buckets.append((self._sum, self._judged_s))
            self._sum = self._judged_s = self._elapsed_s = 0.0
            self._mean = self._calculate_mean()
            self._are_buckets_empty = all(total <= 0 for total, _ in self._buckets)

    def mean(self) -> float | None:
        """Return the mean; None before the window is full, or if too little of it was judged."""
        return self._mean

    def _calculate_mean(self) -> float | None:
        if len(self._buckets) < BUCKETS:
            return None
        judged_s = sum(judged for _, judged in self._buckets)
        if judged_s < MIN_COVERAGE * BUCKETS * self._bucket_s:
            return None
        return sum(total for total, _ in self._buckets) / judged_s

    @property
    def is_empty(self) -> bool:
        """Whether the score was 0 or less for the whole window."""
        return self._sum <= 0 and self._are_buckets_empty
