"""Health of the server, for probes and load balancers; no key is needed."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from armorm.serving.service import Service
from armorm.serving.wire import Wire

READY_PATHS = ("/health/ready", "/health", "/ping")
"""Paths of readiness: ours, that of vLLM and TEI, and that of SageMaker."""


class Health(Wire):
    """State of the server."""

    status: Literal["live", "ready", "draining", "dead"]


def router(service: Service) -> APIRouter:
    """Return the routes of probes."""
    probes = APIRouter(tags=["health"])

    @probes.get(
        "/health/live", responses={503: {"model": Health, "description": "It cannot score."}}
    )
    async def live(response: Response) -> Health:
        """Answer 200 while the model's thread runs: restart the process if this fails."""
        running = getattr(service.scorer, "running", True)
        response.status_code = 200 if running else 503
        return Health(status="live" if running else "dead")

    async def ready(response: Response) -> Health:
        """Answer 200 while the server takes requests, and 503 while it stops."""
        response.status_code = 503 if service.draining else 200
        return Health(status="draining" if service.draining else "ready")

    for path in READY_PATHS:
        probes.add_api_route(
            path, ready, responses={503: {"model": Health, "description": "It stops."}}
        )
    return probes
