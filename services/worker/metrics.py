"""What a worker counts, in Prometheus' terms."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FIRST_AUDIO_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class Metrics:
    """A worker's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.utterances = Counter(
            "parley_worker_utterances",
            "Utterances by what was done and how it ended.",
            ["task", "outcome"],
            registry=self.registry,
        )
        self.active = Gauge(
            "parley_worker_active_utterances",
            "Utterances being served.",
            registry=self.registry,
        )
        self.capacity = Gauge(
            "parley_worker_capacity_utterances",
            "Utterances that are served at once.",
            registry=self.registry,
        )
        self.resident = Gauge(
            "parley_worker_resident_models", "Models in memory.", registry=self.registry
        )
        self.first_audio = Histogram(
            "parley_worker_first_audio_seconds",
            "From a text to its first audio.",
            buckets=FIRST_AUDIO_BUCKETS,
            registry=self.registry,
        )
        self.audio = Counter(
            "parley_worker_audio_seconds",
            "Audio spoken or heard.",
            ["task"],
            registry=self.registry,
        )
        self.sockets = Gauge(
            "parley_worker_sockets", "WebSockets that are open.", registry=self.registry
        )
