"""How often somebody may ask, and how often somebody did.

Example:
    >>> limit = RateLimit(per_second=1.0, burst=2)
    >>> [limit.wait("clinic", now=0.0) for _ in range(3)], limit.wait("clinic", now=1.5)
    ([0.0, 0.0, 1.0], 0.0)
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from lightning_privacy._validate import positive, positive_int

__all__ = ["RateLimit", "Traffic"]

_BOUNDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_PREFIX = "lightning_privacy"


class RateLimit:
    """A bucket of tokens for each client: full at first, refilled at a rate, one token for each request.

    Args:
        per_second: Requests a second in the long run.
        burst: Requests at once.
        most: How many clients are remembered; those that asked longest ago are forgotten first.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(self, *, per_second: float, burst: int, most: int = 65_536) -> None:
        self._rate = positive(per_second=per_second)
        self._burst = positive_int(burst=burst)
        self._most = positive_int(most=most)
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, *, now: float) -> float:
        """Seconds until the client may ask; 0 if it may now, and then a token is taken.

        Args:
            client: Who asks.
            now: Seconds on a clock that does not go back.
        """
        tokens, then = self._tokens.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - then) * self._rate)
        allowed = tokens >= 1.0
        self._tokens[client] = (tokens - 1.0 if allowed else tokens, now)
        while len(self._tokens) > self._most:
            self._tokens.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._rate


class Traffic:
    """Counts for a monitoring system; no names, no inputs, no answers.

    Example:
        >>> traffic = Traffic()
        >>> traffic.request("/v1/predict", 200, seconds=0.004, answers=2)
        >>> [line for line in traffic.text().splitlines() if line.startswith("lightning_privacy_answers")]
        ['lightning_privacy_answers_total 2']
    """

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._answers = 0
        self._batches = 0
        self._within: Counter[float] = Counter()
        self._seconds = 0.0
        self._timed = 0

    def request(self, route: str, status: int, *, seconds: float, answers: int = 0) -> None:
        """Count a request that was responded to."""
        self._requests[route, status] += 1
        self._answers += answers
        self._timed += 1
        self._seconds += seconds
        for bound in _BOUNDS:
            if seconds <= bound:
                self._within[bound] += 1

    def batch(self) -> None:
        """Count a pass of the model, which answers all who wait."""
        self._batches += 1

    def text(self) -> str:
        """The counts in the text format of Prometheus, version 0.0.4."""
        lines = [
            *_head("requests_total", "counter", "Requests by route and status."),
            *(
                f'{_PREFIX}_requests_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self._requests.items())
            ),
            *_head("answers_total", "counter", "Examples answered."),
            f"{_PREFIX}_answers_total {self._answers}",
            *_head("batches_total", "counter", "Passes of the model."),
            f"{_PREFIX}_batches_total {self._batches}",
            *_head("request_seconds", "histogram", "Time from the end of a request's head to its response."),
            *(f'{_PREFIX}_request_seconds_bucket{{le="{bound:g}"}} {self._within[bound]}' for bound in _BOUNDS),
            f'{_PREFIX}_request_seconds_bucket{{le="+Inf"}} {self._timed}',
            f"{_PREFIX}_request_seconds_sum {self._seconds:.6f}",
            f"{_PREFIX}_request_seconds_count {self._timed}",
        ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, description: str) -> tuple[str, str]:
    return f"# HELP {_PREFIX}_{name} {description}", f"# TYPE {_PREFIX}_{name} {kind}"
