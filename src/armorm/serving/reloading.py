"""Hot swap: another model, or the same folder again, without a lost request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fastapi import APIRouter

from armorm.errors import ArmormError
from armorm.model import RewardModel
from armorm.serving.failures import UnauthorizedError
from armorm.serving.metrics import Metrics
from armorm.serving.native import FAILURES, model_answer
from armorm.serving.routing import protocol_router
from armorm.serving.scheduling import Scheduler
from armorm.serving.service import Service
from armorm.serving.wire import ModelAnswer, Wire

logger = logging.getLogger("armorm.serving")

Load = Callable[[str], RewardModel]
"""Function that loads and checks the model of a folder or hub id."""


class Reloader:
    """Replacement of the served model while requests go on.

    The new model is loaded and checked beside the old one, so both need memory for a while.

    Args:
        service: The service.
        scheduler: Its scheduler.
        metrics: Counts reloads.
        load: Loads a model.
        name: Folder or hub id of the model that is served.
    """

    def __init__(
        self, service: Service, scheduler: Scheduler, metrics: Metrics, load: Load, name: str
    ) -> None:
        self._service, self._scheduler, self._metrics = service, scheduler, metrics
        self._load, self._name = load, name
        self._one_at_a_time = asyncio.Lock()

    async def reload(self, name: str | None = None) -> None:
        """Load a model and serve it; the old one stays if that fails.

        Args:
            name: Folder or hub id. Default: the one that is served now, as it is on disk today.

        Raises:
            ArmormError: The model cannot be loaded or fails its self-check.
        """
        async with self._one_at_a_time:
            name = name or self._name
            logger.info("reload started", extra={"model": name})
            try:
                model = await asyncio.to_thread(self._load, name)
                fingerprint = await asyncio.to_thread(model.fingerprint)
                await self._scheduler.swap(model)
            except Exception as error:
                logger.error("reload failed: the old model stays", extra={"error": str(error)})
                self._metrics.reload_finished(succeeded=False)
                raise
            self._name = name
            self._service.model_name = self._service.options.served_name or name
            self._service.fingerprint = fingerprint
            self._metrics.describe(self._service)
            self._metrics.reload_finished(succeeded=True)
            logger.info("reload finished", extra={"model": name})

    async def try_reload(self) -> None:
        """Load the served folder again; a failure is logged."""
        try:
            await self.reload()
        except ArmormError:
            pass
        except Exception:
            logger.exception("reload failed unexpectedly")


class ReloadBody(Wire):
    """Model to serve from now on."""

    model: str | None = None
    """Folder or hub id. Default: the one that is served now, as it is on disk today."""


def router(service: Service, reloader: Reloader, key: str | None) -> APIRouter:
    """Return the route that replaces the model; it takes requests only if there is a key."""
    api = protocol_router(prefix="/v1/admin", tags=["admin"], responses=FAILURES)

    @api.post("/reload")
    async def reload(body: ReloadBody) -> ModelAnswer:
        """Load a model, check it and swap it in, without losing a request.

        The answer comes when the new model serves. If it cannot be loaded, the old one stays.
        """
        if key is None:
            raise UnauthorizedError(
                "Reloading by a request needs a server with a key (--api-key-file). Without one, "
                "send SIGHUP to the process."
            )
        await reloader.reload(body.model)
        return model_answer(service)

    return api
