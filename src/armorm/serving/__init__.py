"""The reward server: an HTTP interface whose requests share batches."""

from armorm.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "armorm.serving.app": ["create_app"],
        "armorm.serving.observing": ["BatchEnd", "BatchStart", "IgnoreEvents", "SchedulerObserver"],
        "armorm.serving.client": ["AsyncClient", "Client"],
        "armorm.serving.options": ["BatchingOptions", "ReplicaOptions", "ServerOptions"],
        "armorm.serving.requests": [
            "DeadlineError",
            "DrainingError",
            "QueueFullError",
            "RequestScorer",
            "ScoreRequest",
            "ScoredRequest",
        ],
        "armorm.serving.running": ["background_server"],
        "armorm.serving.scheduling": ["Scheduler"],
        "armorm.serving.service": ["Service"],
    },
)
