"""The HTTP API: every route names the roles that may use it, and what is not named is denied.

Authorisation looks at the route that was matched, never at the text of the address. Errors are problem+json.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from journal.errors import NotAllowed, RivermillError
from rivermill import api_document
from rivermill.access import KeyRing, Principal
from rivermill.api_hot import DEFAULT_SOURCE, HOT, BadRequest, Hot, PipelineService, service_of
from rivermill.desk import Desk, JobDesk
from rivermill.http_metrics import HttpMetrics
from rivermill.problem import on_defect, on_error, on_http_error, problem_of

PUBLIC = frozenset({"livez", "readyz"})
"""Routes that need no key."""

PERMISSIONS: dict[str, frozenset[str]] = {
    "events": frozenset({"producer"}),
    "labels": frozenset({"labeler", "producer"}),
    "predict": frozenset({"predictor"}),
    "prediction": frozenset({"predictor", "auditor"}),
    "submit_job": frozenset({"trainer"}),
    "jobs": frozenset({"trainer", "auditor"}),
    "job": frozenset({"trainer", "auditor"}),
    "job_logs": frozenset({"trainer", "auditor"}),
    "stop_job": frozenset({"trainer"}),
    "versions": frozenset({"trainer", "promoter", "auditor"}),
    "version": frozenset({"trainer", "promoter", "auditor"}),
    "decisions": frozenset({"promoter", "auditor"}),
    "promote": frozenset({"promoter"}),
    "rollback": frozenset({"promoter"}),
    "status": frozenset({"producer", "predictor", "labeler", "trainer", "promoter", "auditor"}),
    "metrics": frozenset({"auditor"}),
    "openapi": frozenset({"producer", "predictor", "labeler", "trainer", "promoter", "auditor"}),
}
"""Route name to the roles that may use it, admin beside them. A route that is not here is nobody's."""

_OWNER_SECONDS = 0.5
_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class JobOrder(BaseModel):
    """A training job to submit."""

    model_config = ConfigDict(extra="forbid")
    pipeline: str
    executor: str = Field("auto", pattern="^(auto|ray|serial)$")
    promote: bool = False


class Promotion(BaseModel):
    """A line to promote."""

    model_config = ConfigDict(extra="forbid")
    line: str
    why: str = Field(min_length=1)
    expected: int | None = None


class Rollback(BaseModel):
    """A rollback: to an earlier champion by name, or to the one before."""

    model_config = ConfigDict(extra="forbid")
    why: str = Field(min_length=1)
    to: str = ""
    expected: int | None = None


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
    app = FastAPI(
        title="Rivermill",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(_authorize)],
    )
    app.state.keyring = keyring
    app.add_exception_handler(RivermillError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, on_defect)
    for name, (path, endpoint) in HOT.items():
        app.router.routes.append(_hot(name, path, known, endpoint))
    _add_operations(app, known, metrics)
    _add_jobs(app, jobs)
    _add_registry(app, desk)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS)
    app.add_middleware(_Observed, metrics=metrics)
    return app


async def _authorize(request: Request) -> Principal:
    """Let a request through by the route that it matched."""
    name = request.scope["route"].name
    if name in PUBLIC:
        return Principal("anyone", frozenset(), frozenset())
    ring: KeyRing = request.app.state.keyring
    principal = ring.principal_of(request.headers.get("authorization"))
    if name not in PERMISSIONS:
        raise NotAllowed(which=f"route {name!r} is nobody's", fix="Give it roles in rivermill/api.py")
    principal.require(PERMISSIONS[name], request.path_params.get("pipeline"))
    return principal


Caller = Annotated[Principal, Depends(_authorize)]
Key = Annotated[str, Header(alias="Idempotency-Key", max_length=200)]
Explain = Annotated[bool, Query(description="Say what it would do, and do nothing")]


def _hot(name: str, path: str, services: dict[str, PipelineService], endpoint: Hot) -> Route:
    async def answer(request: Request) -> Response:
        # FastAPI notes the matched route by itself; a bare route has to.
        request.scope["route"] = route
        principal = await _authorize(request)
        return await endpoint(service_of(services, request), request, principal)

    route = Route(path, answer, methods=["POST"], name=name)
    return route


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for these alone"
    wrong = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
    return problem_of(
        BadRequest(
            which=wrong, fix="Send application/json (`curl --json` does); /openapi.json says what this route takes"
        ),
        request.url.path,
    )


def _add_operations(app: FastAPI, services: dict[str, PipelineService], metrics: HttpMetrics) -> None:
    @app.get("/livez", name="livez")
    async def livez() -> dict[str, str]:
        """Whether this process runs."""
        return {"status": "alive"}

    @app.get("/readyz", name="readyz")
    async def readyz() -> Response:
        """Whether everything answers; 503 with what does not."""
        wrong = {name: trouble for name, each in services.items() if (trouble := await _trouble(each))}
        ready = not wrong
        return JSONResponse({"ready": ready, "trouble": wrong}, status_code=200 if ready else 503)

    @app.get("/metrics", name="metrics", response_class=PlainTextResponse)
    async def metrics_text() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", name="openapi")
    async def openapi() -> dict[str, Any]:
        """What this API offers."""
        return api_document.document(app)

    @app.get("/v1/{pipeline}/status", name="status")
    async def status(pipeline: str, request: Request) -> dict[str, Any]:
        """Where a pipeline stands: its now, what answers, what became of the answers."""
        return _status(service_of(services, request), pipeline)


async def _trouble(service: PipelineService) -> str:
    if service.live.trouble:
        return service.live.trouble
    try:
        await service.owner.state(_OWNER_SECONDS)
    except RivermillError as error:
        return str(error)
    return ""


def _status(service: PipelineService, name: str) -> dict[str, Any]:
    served, counters = service.live.answering.champion.served, service.live.counters
    return {
        "pipeline": name,
        "now": service.live.now_text,
        "line": served.line,
        "control": served.control,
        "snapshot": served.snapshot,
        "answers": {fate: getattr(counters, fate) for fate in counters.__slots__},
        "trouble": service.live.trouble,
    }


def _add_jobs(app: FastAPI, jobs: JobDesk) -> None:
    @app.post("/v1/jobs", name="submit_job", status_code=202)
    async def submit_job(order: JobOrder, caller: Caller, key: Key = "") -> dict[str, Any]:
        """Submit a retrain; the same Idempotency-Key is the same job."""
        caller.require(PERMISSIONS["submit_job"], order.pipeline)
        options = {"executor": order.executor, "promote": order.promote}
        return await run_in_threadpool(jobs.submit, order.pipeline, key, caller.name, options)

    @app.get("/v1/jobs", name="jobs")
    async def list_jobs(pipeline: str | None = None) -> dict[str, Any]:
        """Every job, or one pipeline's."""
        return {"jobs": await run_in_threadpool(jobs.list, pipeline)}

    @app.get("/v1/jobs/{job}", name="job")
    async def job(job: str) -> dict[str, Any]:
        """One job and what came of it."""
        return await run_in_threadpool(jobs.get, job)

    @app.get("/v1/jobs/{job}/logs", name="job_logs", response_class=PlainTextResponse)
    async def job_logs(job: str) -> str:
        """What a job has printed so far."""
        return await run_in_threadpool(jobs.logs, job)

    @app.post("/v1/jobs/{job}/stop", name="stop_job")
    async def stop_job(job: str) -> dict[str, Any]:
        """Stop a job."""
        return await run_in_threadpool(jobs.stop, job)


def _add_registry(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/{pipeline}/predictions/{id:path}", name="prediction")
    async def prediction(pipeline: str, id: str, source: str = DEFAULT_SOURCE) -> dict[str, Any]:
        """The recorded answer to a question, with all that it was made from."""
        return await run_in_threadpool(desk.prediction, pipeline, source, id)

    @app.get("/v1/{pipeline}/versions", name="versions")
    async def versions(pipeline: str) -> dict[str, Any]:
        """Every line with its state."""
        return {"lines": await run_in_threadpool(desk.versions, pipeline)}

    @app.get("/v1/{pipeline}/versions/{line}", name="version")
    async def version(pipeline: str, line: str) -> dict[str, Any]:
        """One line, what the gate said about it, and what it would say now."""
        return await run_in_threadpool(desk.version, pipeline, line)

    @app.get("/v1/{pipeline}/decisions", name="decisions")
    async def decisions(pipeline: str) -> dict[str, Any]:
        """Every decision, with who decided and why."""
        return {"decisions": await run_in_threadpool(desk.decisions, pipeline)}

    @app.post("/v1/{pipeline}/promote", name="promote")
    async def promote(
        pipeline: str, asked: Promotion, caller: Caller, explain: Explain = False, key: Key = ""
    ) -> dict[str, Any]:
        """Let a line answer, if the gate lets it in; 422 with every failing check if not."""

        def decide() -> dict[str, Any]:
            return desk.promote(
                pipeline,
                asked.line,
                why=asked.why,
                principal=caller.name,
                key=key,
                expected=asked.expected,
                explain=explain,
            )

        return await run_in_threadpool(decide)

    @app.post("/v1/{pipeline}/rollback", name="rollback")
    async def rollback(
        pipeline: str, asked: Rollback, caller: Caller, explain: Explain = False, key: Key = ""
    ) -> dict[str, Any]:
        """Let an earlier champion answer again."""

        def decide() -> dict[str, Any]:
            return desk.roll_back(
                pipeline,
                asked.to,
                why=asked.why,
                principal=caller.name,
                key=key,
                expected=asked.expected,
                explain=explain,
            )

        return await run_in_threadpool(decide)


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
                message["headers"] = [
                    *message["headers"],
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = scope.get("route")
            self._metrics.count(route.name if route else "none", status, time.perf_counter() - begun)
