"""Statistics over replications: means with confidence intervals."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None, float | None]:
    """Mean of independent values and the ends of its Student-t confidence interval; no ends for a single value."""
    data = np.asarray(values, float)
    mean = float(data.mean())
    if len(data) < 2 or not math.isfinite(mean):
        return mean, None, None
    half = float(stats.t.ppf((1 + confidence) / 2, len(data) - 1) * data.std(ddof=1) / math.sqrt(len(data)))
    return mean, mean - half, mean + half
