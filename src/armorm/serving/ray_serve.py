"""The reward server on Ray Serve: replicas on one or many machines, as many as the load asks for.

Each replica loads the model and batches its own requests; Ray Serve's proxies spread requests over
them, replace replicas that die, and drain those that go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import Field

from armorm.errors import MissingExtraError, RecipeError
from armorm.serving.options import ReplicaOptions, ServerOptions
from armorm.serving.running import ServeSettings, build_app
from armorm.serving.startup_files import KEY_VARIABLE, read_key, read_profile_folder
from armorm.training.recipe_file import apply_override

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "armorm"
"""Name of the deployment on Ray Serve."""

_OF_THE_PROXIES = (
    "host",
    "port",
    "tls_cert",
    "tls_key",
    "workers",
    "max_connections",
    "keep_alive",
)
"""Server options without a meaning here: connections end at Ray Serve's proxies."""


class RayServeSettings(ServeSettings):
    """Model and options of a deployment on Ray Serve.

    Example:
        >>> from armorm.serving.ray_serve import RayServeSettings
        >>> settings = RayServeSettings(model="runs/quickstart/model", replicas={"max_replicas": 4})
        >>> settings.replicas.max_replicas
        4
    """

    replicas: ReplicaOptions = Field(default_factory=ReplicaOptions)
    """Number and size of the replicas."""

    @property
    def alone(self) -> bool:
        """False: a request reaches one of the replicas."""
        return False


def build(arguments: Mapping[str, Any]) -> Application:
    """Return the application that ``serve run`` and ``serve deploy`` start.

    Args:
        arguments: Settings by name: nested, as in a file of Ray Serve, or with dots, as on the
            command line (``replicas.max_replicas=4``).

    Raises:
        RecipeError: A name is unknown or a value is wrong.
    """
    content: dict[str, Any] = {}
    for name, value in arguments.items():
        if "." in name:
            apply_override(content, f"{name}={value}")
        else:
            content[name] = value
    return ray_application(RayServeSettings.validated(content, "arguments"))


def ray_application(settings: RayServeSettings) -> Application:
    """Return the application that serves a model by replicas on Ray Serve.

    The key of the clients is read here and sent to the replicas, so that its file or environment
    variable need not be on all machines. The folders of model and profiles must be.

    Args:
        settings: Model and options.

    Raises:
        MissingExtraError: Ray Serve is not installed.
        RecipeError: An option belongs to Ray Serve, or the key or a profile cannot be read.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("Ray Serve", "scale") from error
    _check_server(settings.server)
    key = read_key(settings.server.api_key_file)
    read_profile_folder(settings.server.profiles)
    settings = _for_any_folder(settings)

    replicas = settings.replicas
    deployment = serve.deployment(
        serve.ingress(lambda: _load_app(settings, key))(_Replica),
        name=NAME,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=replicas.max_requests,
        max_queued_requests=replicas.max_waiting,
        autoscaling_config={
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": replicas.target_requests,
            "upscale_delay_s": replicas.upscale_delay,
            "downscale_delay_s": replicas.downscale_delay,
        },
        graceful_shutdown_timeout_s=settings.server.drain_timeout,
    )
    return deployment.bind()


def _load_app(settings: RayServeSettings, key: str | None) -> FastAPI:
    """Return the application of a replica."""
    if key is not None:  # a replica has the environment of the Ray node, not of the driver
        os.environ[KEY_VARIABLE] = key
    return build_app(settings, settings.load(settings.model))


class _Replica:
    """Requests of Ray Serve to a replica besides those over HTTP."""

    app: FastAPI

    def check_health(self) -> None:
        """Raise an error if the replica cannot score any more, so that it is replaced."""
        if not self.app.state.service.scorer.running:
            raise RuntimeError("The thread of the model has ended.")


def _check_server(server: ServerOptions) -> None:
    given = [f"server.{name}" for name in _OF_THE_PROXIES if name in server.model_fields_set]
    if given:
        raise RecipeError(
            f"{', '.join(given)}: the address belongs to Ray Serve, and replicas take the place "
            "of workers. Set http_options in its file, or replicas.max_replicas."
        )


def _for_any_folder(settings: RayServeSettings) -> RayServeSettings:
    """Return settings whose paths hold in the working folder of a replica, and without the key."""
    server, model = settings.server, settings.model
    changes: dict[str, Any] = {"api_key_file": None, "served_name": server.served_name or model}
    if server.profiles is not None:
        changes["profiles"] = server.profiles.resolve()
    if Path(model).is_dir():
        model = str(Path(model).resolve())
    return settings.model_copy(update={"model": model, "server": server.model_copy(update=changes)})
