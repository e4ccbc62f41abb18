"""What the service counts, in Prometheus' text format.

Each service has a registry of its own, so that several can stand in one process.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PHOTOS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service.

    Attributes:
        photos: Scored photos by product and label.
        requests: Answered requests by method, path and status.
        seconds: From a request's first byte to its answer, by path.
        batches: Photos of each pass.
        waiting: Photos that wait or are scored.
        thresholds: Of each product.
        detector: Version and fingerprint.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here: dict[str, Any] = {"registry": self.registry}
        self.photos = Counter("anople_photos", "Scored photos.", ("product", "label"), **here)
        self.requests = Counter("anople_requests", "Answered requests.", ("method", "path", "status"), **here)
        self.seconds = Histogram("anople_request_seconds", "Time to answer.", ("path",), buckets=SECONDS, **here)
        self.batches = Histogram("anople_batch_photos", "Photos scored in one pass.", buckets=PHOTOS, **here)
        self.waiting = Gauge("anople_waiting_photos", "Photos that wait or are being scored.", **here)
        self.thresholds = Gauge("anople_threshold", "Score above which a part is defective.", ("product",), **here)
        self.detector = Info("anople_detector", "What is served.", **here)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


__all__ = ["Metrics"]
