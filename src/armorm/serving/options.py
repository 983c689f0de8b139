"""Options of the reward server, its scheduler and its replicas."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from armorm.settings import Options

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ServerOptions(Options):
    """Options of the reward server: address, limits, key and profiles.

    Example:
        >>> from armorm.serving import ServerOptions
        >>> ServerOptions(port=9000, max_responses=16).is_loopback
        True
    """

    host: str = "127.0.0.1"
    """Address to listen at: 0.0.0.0 or :: is every address of the machine, which needs a key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port; 0 takes a free one."""
    served_name: str | None = None
    """Name of the model in answers. Default: the folder or hub id as it was given."""
    profiles: Path | None = None
    """Folder of steering profiles, NAME.yaml or NAME.json, that a request may name beside those
    that are saved with the model."""
    api_key_file: Path | None = None
    """File whose first line is the key that clients send as a bearer token. Default: the
    environment variable ARMORM_API_KEY, or no key."""
    tls_cert: Path | None = None
    """Certificate chain, for HTTPS."""
    tls_key: Path | None = None
    """Private key of the certificate."""
    docs: bool = False
    """Serve /docs, a page whose scripts the browser loads from a public server. /openapi.json is
    always served."""

    workers: int = Field(default=1, ge=1)
    """Processes that serve at the port. Each loads the model and batches its own requests: they
    share nothing but the port."""
    access_log: bool = True
    """Log a line for each request."""

    max_body_mb: float = Field(default=16.0, gt=0)
    """Maximum size of a request's body, in megabytes (413)."""
    max_conversations: int = Field(default=256, ge=1)
    """Maximum number of conversations in one request (413)."""
    max_responses: int = Field(default=256, ge=1)
    """Maximum number of responses to one prompt in a request (413)."""
    max_messages: int = Field(default=1024, ge=1)
    """Maximum number of messages in a conversation (413)."""
    max_connections: int = Field(default=10_000, ge=1)
    """Maximum number of open connections; more are answered 503."""
    deadline: float = Field(default=60.0, gt=0)
    """Seconds that a request may take if the client does not say (504)."""
    max_deadline: float = Field(default=600.0, gt=0)
    """Maximum of what a client may ask for, in seconds; more counts as this."""
    receive_timeout: float = Field(default=30.0, gt=0)
    """Seconds in which a client must send the headers, and then the body (408)."""
    keep_alive: int = Field(default=75, ge=1)
    """Seconds that an idle connection is kept open."""
    drain_timeout: int = Field(default=120, ge=1)
    """Seconds that a server which stops waits for the requests it has taken."""

    @model_validator(mode="after")
    def _check_together(self) -> ServerOptions:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are needed together.")
        return self

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect."""
        return self.host in LOOPBACK

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of a body."""
        return int(self.max_body_mb * 1_000_000)


class BatchingOptions(Options):
    """Options of the scheduler.

    Example:
        >>> from armorm.serving.options import BatchingOptions
        >>> BatchingOptions(window_ms=0).queue_rows
        8192
    """

    batch_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of tokens of a batch; requests in it get their answers together. Default: that
    of one forward pass."""
    window_ms: float = Field(default=5.0, ge=0, le=1000)
    """Longest time that an idle model waits for requests that have arrived and are being encoded,
    in milliseconds. It never waits for requests that may come."""
    regroup: bool = True
    """Take queued requests with the same prompt into one batch, so that it is computed once."""
    cache_mib: int = Field(default=512, ge=0)
    """Memory for recent prompts (states, keys and values), in MiB; 0 keeps none."""
    batch_invariant: bool = False
    """Compute each prompt and each response in a forward pass of its own, so that a request gets
    the same bits whatever runs beside it. Slower."""
    queue_rows: int = Field(default=8192, ge=1)
    """Maximum number of responses that wait; more are refused."""
    queue_tokens: int = Field(default=2_000_000, ge=1)
    """Maximum number of tokens that wait; more are refused."""
    encoding_threads: int = Field(default=2, ge=1, le=64)
    """Threads that encode requests as token ids."""


class ReplicaOptions(Options):
    """Options of the replicas on Ray Serve.

    Example:
        >>> from armorm.serving.options import ReplicaOptions
        >>> ReplicaOptions(max_replicas=8, gpus=1).min_replicas
        1
    """

    min_replicas: int = Field(default=1, ge=1)
    """Number of replicas without load."""
    max_replicas: int = Field(default=1, ge=1)
    """Maximum number of replicas."""
    target_requests: float = Field(default=64.0, gt=0)
    """Requests that a replica should have at a time, waiting ones included: autoscaling adds and
    removes replicas towards it. Fewer answer sooner, more fill the batches."""
    max_requests: int = Field(default=1024, ge=1)
    """Maximum number of requests that a replica has at a time; more wait at the proxies."""
    max_waiting: int = Field(default=8192, ge=1)
    """Maximum number of requests that wait at a proxy; more are refused (503)."""
    upscale_delay: float = Field(default=10.0, ge=0)
    """Seconds of too much load before replicas are added."""
    downscale_delay: float = Field(default=600.0, ge=0)
    """Seconds of too little load before replicas are removed."""
    cpus: float = Field(default=1.0, ge=0)
    """CPU cores of a replica."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of a replica; 0.5 lets two share one."""

    @model_validator(mode="after")
    def _check_together(self) -> ReplicaOptions:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is greater than max_replicas.")
        return self
