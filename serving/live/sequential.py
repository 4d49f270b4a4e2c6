"""A test that may be looked at all the time: do live counts come from where the expected ones come from?

An e-process for multinomial counts (Lindon and Malek 2022, "Anytime-valid inference for multinomial count data"): the
likelihood of the live counts under a Dirichlet mixture, over their largest likelihood under any distribution that the
expected counts, a sample themselves, leave possible. Where nothing differs it exceeds 1 / alpha at *any* time with
probability alpha at most (Ville's inequality), however often one looks.

Evidence is gathered in windows, so that what changes late is noticed soon; the j-th may exceed with probability
6 / (pi j)^2 of alpha, which adds up to alpha over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma, log, pi

import numpy as np
from scipy.special import chdtri, gammaln


class SequentialTest:
    """Whether live images differ from expected ones.

    Args:
        expected: (cells,) images of each cell that was counted before.
        alpha: chance of a false alarm over its whole life.
        window: images after which evidence is gathered anew.

    >>> test = SequentialTest([5000, 4000, 1000], alpha=0.01)
    >>> test.add([250, 200, 50])
    False
    >>> test.add([40, 60, 300])
    True
    """

    def __init__(self, expected: Sequence[int], *, alpha: float, window: int = 2000) -> None:
        if not 0 < alpha < 1 or window < 1 or not sum(expected):
            raise ValueError(f"0 < alpha < 1, a window of images and expected counts, not {alpha}, {window}, {expected}")
        self._expected = np.asarray(expected, dtype=float)
        self._alpha, self._window = alpha / 2, window
        # Half of alpha is for the expected counts' own luck (Wilks), half for the live ones'.
        self._slack = float(chdtri(len(self._expected) - 1, alpha / 2)) if len(self._expected) > 1 else 0.0
        self._number = 1
        self.counts = np.zeros(len(self._expected), dtype=np.int64)
        self.differs = False
        self._exceeded = False

    @property
    def expected(self) -> np.ndarray:
        """(cells,) expected shares."""
        return np.asarray(self._expected / self._expected.sum())

    def add(self, counts: Sequence[int] | np.ndarray) -> bool:
        """Count more images, by cell.

        Returns:
            Whether live images differ: from the moment on that there is evidence, until a whole window without.
        """
        if self.counts.sum() >= self._window or self._exceeded:
            if not self._exceeded:
                self.differs = False
            self._number, self._exceeded = self._number + 1, False
            self.counts[:] = 0
        self.counts += np.asarray(counts, dtype=np.int64)
        limit = log(1 / self._alpha) + log(pi**2 / 6) + 2 * log(self._number)
        if self.evidence() > limit:
            self.differs = self._exceeded = True
        return self.differs

    def evidence(self) -> float:
        """Logarithm of the e-value of this window's counts."""
        live = self.counts.astype(float)
        total, cells = live.sum(), len(live)
        mixture = lgamma(cells / 2) - lgamma(total + cells / 2) + float(gammaln(live + 0.5).sum()) - cells * lgamma(0.5)
        return mixture - _log_likelihood(live, _nearest(live, self._expected, self._slack))


def _nearest(live: np.ndarray, expected: np.ndarray, slack: float) -> np.ndarray:
    """Of the distributions that the expected counts leave possible, the one under which the live ones are likeliest.

    The Lagrangian's solution pools live with weighted expected counts; the weight is found by bisection.
    """

    def pooled(weight: float) -> np.ndarray:
        return np.asarray((live + weight * expected) / (live.sum() + weight * expected.sum()))

    def farther(weight: float) -> bool:
        found = 2 * (_log_likelihood(expected, expected / expected.sum()) - _log_likelihood(expected, pooled(weight)))
        return bool(found > slack)

    low, high = 1e-9, 1e9
    if not farther(low):
        return pooled(low)
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if farther(middle) else (low, middle)
    return pooled(low)  # just outside, so the evidence is rather understated


def _log_likelihood(counts: np.ndarray, shares: np.ndarray) -> float:
    present = counts > 0
    return float(counts[present] @ np.log(np.maximum(shares[present], 1e-300)))
