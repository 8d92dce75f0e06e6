"""The HTTP API: hot and cold routes behind the same guard, over some pipelines. Errors are problem+json."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from journal.errors import RivermillError
from rivermill.access import KeyRing
from rivermill.api_direct import HOSTS, DirectApi, HotRoute
from rivermill.api_guard import BadRequest, GuardedRoute, caller_of
from rivermill.api_hot import HOT, PipelineService
from rivermill.api_routes import add_jobs, add_operations, add_registry
from rivermill.auditing import Auditing
from rivermill.desk import Desk, JobDesk
from rivermill.http_metrics import HttpMetrics
from rivermill.problem import SAFE, on_defect, on_error, on_http_error, problem_of
from rivermill.wall import wall_now

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def make_app(
    services: Mapping[str, PipelineService],
    keyring: KeyRing,
    desk: Desk,
    jobs: JobDesk,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """The API over some pipelines."""
    known = dict(services)
    metrics = HttpMetrics({name: service.live for name, service in known.items()})
    app = DirectApi(
        [HotRoute(name, path, known, endpoint) for name, (path, endpoint) in HOT.items()],
        list(known),
        metrics,
        title="Rivermill",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        dependencies=[Depends(caller_of)],
    )
    app.router.route_class = GuardedRoute
    app.state.keyring = keyring
    app.state.auditing = Auditing(keyring.admin_path.parent.parent, wall_now)
    app.add_exception_handler(RivermillError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, on_defect)
    add_operations(app, known, metrics)
    add_jobs(app, jobs)
    add_registry(app, desk)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    app.add_middleware(_Observed, metrics=metrics)
    return app


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for these alone"
    wrong = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
    return problem_of(
        BadRequest(
            which=wrong, fix="Send application/json (`curl --json` does); /openapi.json says what this route takes"
        ),
        request.url.path,
    )


class _Observed:
    """Counts every request by its route, and says on each response that it is nobody's to cache or to guess at."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                said = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in SAFE if pair[0] not in said)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = scope.get("route")
            self._metrics.count(route.name if route else "none", status, time.perf_counter() - begun)
