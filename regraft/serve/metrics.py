"""What a server counts, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Meters:
    """Counters with a registry of their own: two servers in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("regraft_requests", "Requests answered.", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "regraft_request_seconds",
            "From the head of a request to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._images = Counter("regraft_images", "Images that the network was shown.", registry=self._registry)
        self._batches = Histogram(
            "regraft_batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )
        self._running = Counter("regraft_network_seconds", "Time spent in the network.", registry=self._registry)
        self.under_way = Gauge("regraft_requests_under_way", "Requests worked on or waiting.", registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request. `route` is the name of a route, not what was asked for: that could be anything."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def ran(self, images: int, seconds: float) -> None:
        """One batch."""
        self._images.inc(images)
        self._batches.observe(images)
        self._running.inc(seconds)

    def text(self) -> bytes:
        """All of it."""
        text: bytes = generate_latest(self._registry)
        return text
