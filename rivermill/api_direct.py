"""Hot routes, answered before the framework's layers: those cost more than most of what these routes do.

Everything that a layer would have done for them is done here: only our own host is answered, every request is counted,
and errors are problems. Whatever is not plainly a request to a hot route goes the framework's way, which ends at the
same endpoint or at a refusal.
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from journal.errors import RivermillError
from rivermill.api_guard import authorize, headers_of
from rivermill.api_hot import JSON, Hot, PipelineService, Reply, service_of
from rivermill.http_metrics import HttpMetrics
from rivermill.problem import SAFE, on_defect, on_error

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Under which names we answer."""

_OURS = re.compile(rb"(?:%s)(?::\d{1,5})?" % b"|".join(re.escape(host.encode()) for host in HOSTS))
_DEFECT = 500
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}

_HEAD = ((b"content-type", JSON.encode()), *SAFE)


class HotRoute(Route):
    """One hot endpoint over some pipelines."""

    def __init__(self, name: str, path: str, services: Mapping[str, PipelineService], endpoint: Hot) -> None:
        super().__init__(path, self._respond, methods=["POST"], name=name)
        self._services, self._endpoint = services, endpoint

    async def reply(self, request: Request) -> Reply:
        """Answer whoever may ask; raises RivermillError."""
        # FastAPI notes the matched route by itself; a bare route has to.
        request.scope["route"] = self
        principal = authorize(request, self.name)
        return await self._endpoint(service_of(self._services, request), request, principal)

    async def _respond(self, request: Request) -> Response:
        status, body = await self.reply(request)
        return Response(body, status_code=status, media_type=JSON)


class DirectApi(FastAPI):
    """The framework, with a short way to the hot routes. It sends nothing about itself to anybody."""

    def __init__(self, hot: Sequence[HotRoute], pipelines: Sequence[str], metrics: HttpMetrics, **given: Any) -> None:
        super().__init__(telemetry=_NO_TELEMETRY, **given)
        self.router.routes.extend(hot)
        self._metrics = metrics
        self._direct = {
            route.path.format(pipeline=pipeline): (route, {"pipeline": pipeline})
            for route in hot
            for pipeline in pipelines
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        found = self._direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await super().__call__(scope, receive, send)
            return
        request = Request(scope, receive)
        if not _OURS.fullmatch(headers_of(request).get(b"host", b"")):
            await super().__call__(scope, receive, send)
            return
        route, scope["path_params"] = found
        scope["app"] = self
        await self._answer(route, request, send)

    async def _answer(self, route: HotRoute, request: Request, send: Send) -> None:
        begun, status = time.perf_counter(), _DEFECT
        try:
            try:
                status, body = await route.reply(request)
            except RivermillError as error:
                response = await on_error(request, error)
            except Exception as error:  # whatever it is, the asker is answered and the log has it
                response = await on_defect(request, error)
            else:
                headers = [*_HEAD, (b"content-length", b"%d" % len(body))]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
            status = response.status_code
            await response(request.scope, request.receive, send)
        finally:
            self._metrics.count(route.name, status, time.perf_counter() - begun)
