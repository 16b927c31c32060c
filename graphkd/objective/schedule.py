"""Schedules of a term's weight over the training."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from graphkd.batch import Progress
from graphkd.errors import check


@dataclass(frozen=True)
class Schedule:
    """Factor of a term's weight, linear between points and constant before the first and after the last.

    [[0, 0], [0.2, 1]] raises a term over the first fifth of the epochs, [[0.1, 0], [0.1, 1]] starts it after a tenth.

    Attributes:
        points: Share of the epochs, in increasing order, and the factor there; of two with one share the later counts.

    Raises:
        UserError: There is no point, or the shares do not increase from 0 to 1.
    """

    points: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        check(
            len(shares) > 0 and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1,
            f"the schedule's shares of the epochs are {shares}, but must increase from 0 or more to 1 or less",
        )

    def factor(self, progress: Progress) -> float:
        """Return the factor in an epoch; that of epoch e (from 0) of E is the schedule's at e / E."""
        share = progress.epoch / progress.epochs
        after = bisect_right(self.points, share, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return self.points[min(after, len(self.points) - 1)][1]
        (start, low), (end, high) = self.points[after - 1 : after + 1]
        return low + (high - low) * (share - start) / (end - start)
