"""The process of the reward server: model, port, signals and workers."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from pydantic import Field
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from armorm.errors import ArmormError, RecipeError
from armorm.evaluation.monitoring import MonitorOptions, ReportingOptions
from armorm.model import RewardModel, Steering, SteeringProfile
from armorm.serving import reloading
from armorm.serving.app import create_app
from armorm.serving.http_protocol import TimedConfig, TimedProtocol
from armorm.serving.logs import LOG_CONFIG
from armorm.serving.metrics import WORKERS_VARIABLE, Metrics
from armorm.serving.monitoring import MonitoredMetrics
from armorm.serving.options import BatchingOptions, ServerOptions
from armorm.serving.scheduling import Scheduler
from armorm.serving.service import Service
from armorm.serving.startup_files import KEY_VARIABLE, read_key, read_profile_folder
from armorm.serving.threads import run_apart
from armorm.settings import Options

logger = logging.getLogger("armorm.serving")

SETTINGS_VARIABLE = "ARMORM_SERVE_SETTINGS"
"""Environment variable by which workers get their settings."""

WORKER_START_S = 600
"""Seconds in which a worker that replaces another must have loaded its model."""

WORKER_ANSWER_S = 20
"""Seconds without a sign of life after which a worker is started again."""

Announce = Callable[[str], None]


class ServeSettings(Options):
    """All that a server process needs to know.

    Example:
        >>> from armorm.serving.running import ServeSettings
        >>> ServeSettings(model="runs/quickstart/model").server.port
        8000
    """

    model: str
    """Model folder or hub id."""
    loading: dict[str, Any] = Field(default_factory=dict)
    """Arguments of RewardModel.from_pretrained."""
    steering: Steering | None = None
    """Steering of the served model."""
    profile: SteeringProfile | str | None = None
    """Profile of the served model in place of steering, or the name of one that is saved with
    it."""
    batching: BatchingOptions = Field(default_factory=BatchingOptions)
    """Options of the scheduler."""
    server: ServerOptions = Field(default_factory=ServerOptions)
    """Address, limits, key and profiles."""

    monitor: bool = False
    """Watch what is scored for drift."""
    monitoring: MonitorOptions = Field(default_factory=MonitorOptions)
    """Options of the drift monitor."""
    reporting: ReportingOptions = Field(default_factory=ReportingOptions)
    """Webhook, state and rated rows of the drift monitor."""

    @property
    def alone(self) -> bool:
        """True if one process answers at the address, so that a request can replace its model."""
        return self.server.workers == 1

    def load(self, name: str) -> RewardModel:
        """Load a model and steer it."""
        arguments = {"overlong": "error", **self.loading}
        model = run_apart(lambda: RewardModel.from_pretrained(name, **arguments))
        if model.uncertainty is not None:  # read now: a damaged file would fail requests later
            model.uncertainty.check_belongs(model.heads.weight)
        return model.steer_by(self.steering if self.profile is None else self.profile)


def serve(settings: ServeSettings, announce: Announce = print) -> None:
    """Serve a model until a signal stops the process.

    SIGTERM and SIGINT stop it: no more connections are accepted, what was taken is answered.  A
    second signal leaves at once.  SIGHUP loads the model folder again.

    Args:
        settings: Model and options.
        announce: Receives a line when the model is loaded, and when the server is ready.

    Raises:
        ArmormError: The model cannot be loaded, or the port not be listened at.
    """
    options = settings.server
    _check(options)
    with _bound_socket(options) as listener:
        address = _address(options, listener)
        _allow_files(options.max_connections)
        if options.workers > 1:
            announce(f"Serving {settings.model} at {address} by {options.workers} workers")
            _serve_by_workers(settings, listener)
        else:
            announce(f"Loading {settings.model}")
            logging.captureWarnings(True)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
            app = build_app(settings, settings.load(settings.model))
            ready = f"Serving {settings.model} at {address}"
            server = _Server(app, options, lambda: announce(ready), LOG_CONFIG)
            server.run([listener])
            if server.received == signal.SIGINT:
                signal.raise_signal(signal.SIGINT)


@contextmanager
def background_server(
    model: RewardModel | str, options: ServerOptions | None = None
) -> Iterator[str]:
    """Serve a model from a thread of this process while the block runs, as for a notebook.

    Args:
        model: A model, or its folder or hub id.
        options: Default: a free port of this machine.

    Yields:
        The address.

    Example:
        >>> from armorm.serving import Client, background_server
        >>> with background_server("runs/quickstart/model") as address, Client(address) as client:
        ...     client.score_responses("What is 2 plus 3?", ["2 plus 3 is 5."]).model
        'runs/quickstart/model'
    """
    name = model if isinstance(model, str) else str(model.backbone.folder)
    settings = ServeSettings(model=name, server=options or ServerOptions(port=0, access_log=False))
    _check(settings.server)
    app = build_app(settings, settings.load(name) if isinstance(model, str) else model)
    with _bound_socket(settings.server) as listener:
        ready = threading.Event()
        server = _Server(app, settings.server, ready.set)
        thread = threading.Thread(target=server.run, args=([listener],), name="armorm-server")
        thread.start()
        try:
            while not ready.wait(0.1) and thread.is_alive():
                pass
            yield _address(settings.server, listener)
        finally:
            server.should_exit = True
            thread.join()


def build_app(settings: ServeSettings, model: RewardModel) -> FastAPI:
    """Return the application that serves a model; its lifespan starts and stops the scheduler."""
    key = read_key(settings.server.api_key_file)
    metrics = _metrics(settings, model)
    scheduler = Scheduler(model, settings.batching, metrics)
    profiles = read_profile_folder(settings.server.profiles)
    for profile in profiles.values():
        model.steer(profile=profile)
    service = Service(scheduler, settings.server, profiles, settings.model)
    metrics.describe(service)
    reloader = reloading.Reloader(service, scheduler, metrics, settings.load, settings.model)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        async with scheduler:
            yield
        if isinstance(metrics, MonitoredMetrics):
            await asyncio.to_thread(metrics.reporter.close)
        if WORKERS_VARIABLE in os.environ:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    app = create_app(service, key, metrics=metrics, lifespan=lifespan)
    if settings.alone:
        app.include_router(reloading.router(service, reloader, key))
    app.state.service, app.state.reloader = service, reloader
    return app


def _metrics(settings: ServeSettings, model: RewardModel) -> Metrics:
    """Return the metrics, which watch for drift if that is asked for."""
    if not settings.monitor:
        return Metrics()
    workers = settings.server.workers
    if workers > 1 and settings.reporting.state is not None:
        raise RecipeError("--monitor-state is of one process: leave it out, or take one worker.")
    # Each worker has a monitor of its own, and together they keep to the stated probability.
    share = settings.monitoring.model_copy(
        update={"false_alarm": settings.monitoring.false_alarm / workers}
    )
    return MonitoredMetrics(model, share, settings.reporting)


def app_of_worker() -> FastAPI:
    """Return the application of a worker process, whose settings are in the environment."""
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()
    logging.captureWarnings(True)
    settings = ServeSettings.model_validate_json(os.environ[SETTINGS_VARIABLE])
    try:
        return build_app(settings, settings.load(settings.model))
    except ArmormError as error:
        logger.error("the worker cannot start", extra={"error": str(error)})
        sys.exit(STARTUP_FAILURE)  # which also ends the process that would start it again


class _Server(uvicorn.Server):
    """Server of one process that SIGTERM ends with exit code 0 and SIGHUP makes load again."""

    def __init__(
        self,
        app: FastAPI,
        options: ServerOptions,
        ready: Callable[[], None],
        log_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(_config(app, options, log_config))
        self._app, self._ready = app, ready
        self._reloads: set[asyncio.Task[None]] = set()
        self.received: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and say so."""
        await super().startup(sockets)
        if _has_signals():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal, and leave at the second."""
        del frame
        self.force_exit = self.received is not None
        self.received = sig
        self.should_exit = True
        self._app.state.service.draining = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs; uvicorn would raise them again at the end."""
        numbers = [
            number
            for number in (signal.SIGINT, signal.SIGTERM)
            if _has_signals() and signal.getsignal(number) is not signal.SIG_IGN
        ]
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._app.state.reloader.try_reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


def _has_signals() -> bool:
    """Return true in the main thread, the only one that signals reach."""
    return threading.current_thread() is threading.main_thread()


def _serve_by_workers(settings: ServeSettings, listener: socket.socket) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with TemporaryDirectory(prefix="armorm-metrics-") as folder:
        os.environ[SETTINGS_VARIABLE] = settings.model_dump_json()
        os.environ[WORKERS_VARIABLE] = folder
        config = _config(f"{__name__}:app_of_worker", settings.server, LOG_CONFIG)
        supervisor = _Workers(config, [listener])
        supervisor.run()
    for number, handler in before.items():
        signal.signal(number, handler)
    if supervisor.received == signal.SIGINT:
        signal.raise_signal(signal.SIGINT)
    if supervisor.received is None:
        raise ArmormError("A worker could not start. The log says why.")


class _Workers(Multiprocess):
    """Processes that share a port; SIGHUP replaces them one by one."""

    received: int | None = None

    def restart_all(self) -> None:
        """Replace the workers; a new one may need minutes to load its model."""
        self.config.timeout_worker_healthcheck = WORKER_START_S
        try:
            super().restart_all()
        finally:
            self.config.timeout_worker_healthcheck = WORKER_ANSWER_S

    def handle_int(self) -> None:
        """Stop all workers."""
        self.received = signal.SIGINT
        super().handle_int()

    def handle_term(self) -> None:
        """Stop all workers."""
        self.received = signal.SIGTERM
        super().handle_term()


def _config(
    app: FastAPI | str, options: ServerOptions, log_config: dict[str, Any] | None
) -> uvicorn.Config:
    config = TimedConfig(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        factory=isinstance(app, str),
        workers=options.workers,
        log_config=log_config,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=options.max_connections,
        timeout_keep_alive=options.keep_alive,
        timeout_graceful_shutdown=options.drain_timeout,
        timeout_worker_healthcheck=WORKER_ANSWER_S,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    config.header_timeout = options.receive_timeout
    return config


def _check(options: ServerOptions) -> None:
    """Check files and address before the model is loaded, which may take minutes."""
    key = read_key(options.api_key_file)
    read_profile_folder(options.profiles)
    _check_certificate(options)
    if key is None and not options.is_loopback:
        warnings.warn(
            f"Everybody who reaches {options.host} can use this server: give it a key by "
            f"--api-key-file or {KEY_VARIABLE}.",
            stacklevel=3,
        )


@contextmanager
def _bound_socket(options: ServerOptions) -> Iterator[socket.socket]:
    """Take the port before the model is loaded; nobody can connect until the server listens."""
    try:
        family, kind, number, _, place = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
    except OSError as error:
        raise RecipeError(f"--host {options.host}: {error.strerror}.") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
        except OSError as error:
            raise ArmormError(
                f"{options.host}:{options.port} cannot be listened at: {error.strerror}. Choose "
                "another --port, or end what uses it."
            ) from error
        listener.set_inheritable(True)
        yield listener


def _address(options: ServerOptions, listener: socket.socket) -> str:
    scheme = "http" if options.tls_cert is None else "https"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


def _check_certificate(options: ServerOptions) -> None:
    if options.tls_cert is None or options.tls_key is None:
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        raise RecipeError(
            f"--tls-cert {options.tls_cert}, --tls-key {options.tls_key}: {error}"
        ) from error


def _allow_files(connections: int) -> None:
    """Raise the soft limit of open files, which every connection is one of."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1000
    if soft != resource.RLIM_INFINITY and soft < wanted:
        possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, possible), hard))
