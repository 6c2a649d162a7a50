"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own.

    Attributes:
        requests: By route (a template, never a client's path), method and status.
        seconds: Latency of a request, by route.
        stage_seconds: Time in ``queue`` (per query), ``encode`` and ``search`` (per batch), ``thumbnail``.
        batch_size: Queries per batch.
        refused: Requests refused, by reason.
        connections_closed: Connections closed by the server, by reason: ``waiting`` (the limit was reached),
            ``refused`` (likewise, and none waited), ``slow head``, ``slow reader``.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "tbps_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "tbps_request_seconds", "Time to an answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.stage_seconds = Histogram(
            "tbps_stage_seconds", "Time in a stage of a query.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram("tbps_batch_size", "Queries per batch.", buckets=_BATCH, registry=registry)
        self.refused = Counter("tbps_refused", "Requests refused.", ["reason"], registry=registry)
        self.connections_closed = Counter(
            "tbps_connections_closed", "Connections closed by the server.", ["reason"], registry=registry
        )
        self._connections = Gauge("tbps_connections", "Open connections.", registry=registry)
        self._queue = Gauge("tbps_queue_depth", "Queries that wait for the model.", registry=registry)
        self._records = Gauge("tbps_gallery_records", "Records in the galleries.", registry=registry)
        self._watched: list[tuple[Callable[[], int], Callable[[], int]]] = []

    def watch(self, queue_depth: Callable[[], int], records: Callable[[], int]) -> None:
        """Read these when somebody asks, and give the sum of those of all models."""
        self._watched.append((queue_depth, records))
        self._queue.set_function(lambda: sum(depth() for depth, _ in self._watched))
        self._records.set_function(lambda: sum(count() for _, count in self._watched))

    def watch_connections(self, connections: Callable[[], int]) -> None:
        """Read this when somebody asks."""
        self._connections.set_function(connections)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
