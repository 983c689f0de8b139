"""The web application of the reward server."""

from __future__ import annotations

import importlib
import pkgutil

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from armorm.serving import health, native, protocols
from armorm.serving import metrics as metric_pages
from armorm.serving.metrics import Metrics
from armorm.serving.reception import Reception
from armorm.serving.routing import failure_of, failure_response
from armorm.serving.service import Service
from armorm.version import __version__


def create_app(
    service: Service,
    key: str | None = None,
    *,
    metrics: Metrics | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """Return the application: the native API and every protocol, health and metrics.

    Args:
        service: The service that the routes share.
        key: Key that clients send as a bearer token; ``None`` asks for none.
        metrics: Metrics that the scheduler feeds too.
        lifespan: Context that is entered when the server starts and left when it stops.
    """
    metrics = metrics or Metrics()
    app = FastAPI(
        lifespan=lifespan,
        title="armorm",
        summary="Reward model that people can read and steer.",
        version=__version__,
        docs_url="/docs" if service.options.docs else None,
        redoc_url=None,
    )
    app.include_router(native.router(service))
    app.include_router(health.router(service))
    app.include_router(metric_pages.router(metrics))
    for module in pkgutil.iter_modules(protocols.__path__):
        protocol = importlib.import_module(f"{protocols.__name__}.{module.name}")
        app.include_router(protocol.router(service))
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(Exception, _answer)
    app.add_middleware(Reception, options=service.options, key=key, metrics=metrics)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    """Answer a failure outside every route: no such path or method, or a defect."""
    return failure_response(failure_of(error), request, error=error)
