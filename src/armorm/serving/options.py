"""Options of the reward server."""

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
    """Name of the model in answers. Default: the name of its folder."""
    profiles: Path | None = None
    """Folder of steering profiles, NAME.yaml or NAME.json, that a request may name."""
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
