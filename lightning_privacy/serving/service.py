"""A small HTTP service around a predictor: keys, limits, health and metrics, and a page to try it by hand.

======  ==============  ====  ===========================================================================
method  path            key   what
======  ==============  ====  ===========================================================================
GET     ``/``           no    the page
GET     ``/health``     no    ``{"status": "ok"}``
GET     ``/metrics``    no    counts, as Prometheus reads them; no names, no inputs, no answers
GET     ``/v1/model``   yes   shapes, classes, epsilon, what the answers guarantee
GET     ``/v1/budget``  yes   how many more answers the client can have
POST    ``/v1/predict`` yes   ``{"inputs": [...]}`` to ``{"answers": [{"label": 3}, ...]}``
======  ==============  ====  ===========================================================================

A key comes as ``Authorization: Bearer KEY``. Every error is ``{"error": {"name": ..., "message": ...}}``.

Example:
    >>> import pathlib, tempfile, torch
    >>> from fastapi.testclient import TestClient
    >>> from torch import nn
    >>> from lightning_privacy.serving import PrivatePredictor, create_app, export, load_exported
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder, "model")
    ...     manifest = export(nn.Linear(2, 3), target, example_input=torch.zeros(1, 2), formats=["torch"])
    ...     model = load_exported(target)
    >>> with TestClient(create_app(PrivatePredictor(model), api_keys=None)) as client:
    ...     client.post("/v1/predict", json={"inputs": [[1.0]]}).json()["error"]["name"]
    'RequestError'
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.errors import ConfigurationError, LightningPrivacyError, PrivacyBudgetExceeded
from lightning_privacy.serving._batcher import Batcher, OverloadedError
from lightning_privacy.serving._page import CONTENT_SECURITY_POLICY, PAGE
from lightning_privacy.serving._requests import BINARY, JSON, parse_inputs
from lightning_privacy.serving._traffic import RateLimit, Traffic
from lightning_privacy.serving.answers import Answers
from lightning_privacy.serving.api_keys import ApiKeys
from lightning_privacy.serving.errors import RequestError
from lightning_privacy.serving.exported_model import ExportedModel
from lightning_privacy.serving.manifest import ModelCard
from lightning_privacy.serving.private_predictor import PrivatePredictor

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["ServiceLimits", "create_app"]

_LOG = logging.getLogger(__name__)
_ANYBODY = "anybody"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Wrong keys that one host may try: at once, and in a second.
_FAILURES = {"burst": 20, "per_second": 1.0}


@dataclass(frozen=True)
class ServiceLimits:
    """What one client may ask of the service, whatever its budget.

    Args:
        per_second: Requests a second in the long run.
        burst: Requests at once.
        max_bytes: Of a request's body.
        max_examples: Of one request.
        body_seconds: In which a body must have arrived.

    Raises:
        ConfigurationError: A number is out of range.
    """

    per_second: float = 100.0
    burst: int = 200
    max_bytes: int = 2**20
    max_examples: int = 64
    body_seconds: float = 10.0

    def __post_init__(self) -> None:
        positive(per_second=self.per_second)
        positive_int(burst=self.burst)
        positive_int(max_bytes=self.max_bytes)
        positive_int(max_examples=self.max_examples)
        positive(body_seconds=self.body_seconds)


class _Refused(Exception):  # noqa: N818 - a response, not a fault
    """A response other than an answer."""

    def __init__(self, status: int, name: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.name, self.message, self.headers = status, name, message, headers or {}


class _Service:
    """The routes."""

    def __init__(self, predictor: PrivatePredictor, api_keys: ApiKeys | None, limits: ServiceLimits) -> None:
        if not isinstance(predictor.model, ExportedModel):
            raise ConfigurationError(
                "predictor must have an exported model, whose manifest says what requests must look like: "
                "PrivatePredictor(load_exported(folder), ...)"
            )
        self._predictor = predictor
        self._manifest = predictor.model.manifest
        self._card: ModelCard = predictor.model.manifest.model
        self._api_keys = api_keys
        self._limits = limits
        self._rate = RateLimit(per_second=limits.per_second, burst=limits.burst)
        self._failures = RateLimit(per_second=_FAILURES["per_second"], burst=int(_FAILURES["burst"]))
        self.traffic = Traffic()
        self.batcher: Batcher | None = None

    async def page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        return HTMLResponse(PAGE, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(self.traffic.text(), media_type="text/plain; version=0.0.4")

    async def model(self, request: Request) -> Response:
        self._client(request)
        card, privacy = self._card, self._manifest.privacy
        return _json(
            {
                "architecture": card.architecture,
                "input_shape": list(card.input_shape),
                "input_dtype": card.input_dtype,
                "input_range": None if card.input_range is None else list(card.input_range),
                "class_names": None if card.class_names is None else list(card.class_names),
                "epsilon": privacy.epsilon,
                "delta": privacy.delta,
                "unit": privacy.unit,
                "mode": self._predictor.mode.name,
                "guarantee": self._predictor.guarantee(),
            }
        )

    async def budget(self, request: Request) -> Response:
        client = self._client(request)
        remaining = await asyncio.get_running_loop().run_in_executor(None, self._predictor.remaining, client)
        return _json({"client": client, "remaining": remaining})

    async def predict(self, request: Request) -> Response:
        client = self._client(request)
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind not in (JSON, BINARY):
            raise _Refused(415, "UnsupportedMediaType", f"the body must be {JSON} or {BINARY}, got {kind:.80}")
        body = await self._body(request)
        inputs = parse_inputs(body, kind, self._card, max_examples=self._limits.max_examples)
        if self.batcher is None:
            raise _Refused(503, "NotReady", "the service is starting or stopping")
        answers = await self.batcher.answer(client, inputs)
        if isinstance(answers, PrivacyBudgetExceeded):
            raise answers
        request.state.answers = len(answers)
        return _json({"answers": _records(answers, self._card)})

    def _client(self, request: Request) -> str:
        """Who asks, if they may now."""
        now = time.monotonic()
        if self._api_keys is None:
            client = _ANYBODY
        else:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            known = self._api_keys.client_of(key.strip()) if scheme.lower() == "bearer" else None
            if known is None:
                host = request.client.host if request.client else ""
                _slow_down(self._failures.wait(host, now=now))
                raise _Refused(
                    401,
                    "Unauthorized",
                    "give an API key that is valid here: Authorization: Bearer KEY",
                    {"WWW-Authenticate": "Bearer"},
                )
            client = known
        _slow_down(self._rate.wait(client, now=now))
        return client

    async def _body(self, request: Request) -> bytes:
        most = self._limits.max_bytes
        too_large = _Refused(413, "RequestTooLarge", f"a request must have at most {most} bytes")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_large
        except TimeoutError as error:
            raise _Refused(
                408, "RequestTimeout", f"the body must arrive within {self._limits.body_seconds:g} seconds"
            ) from error
        return bytes(body)

    def handled(self, route: str, respond: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Any]:
        """A route whose errors are responses and whose requests are counted."""

        async def handle(request: Request) -> Response:
            start = time.perf_counter()
            try:
                response = await respond(request)
            except _Refused as error:
                response = _error(error.status, error.name, error.message, error.headers)
            except PrivacyBudgetExceeded as error:
                response = _error(403, "PrivacyBudgetExceeded", str(error))
            except RequestError as error:
                response = _error(400, "RequestError", str(error))
            except OverloadedError as error:
                response = _error(503, "Overloaded", str(error), {"Retry-After": "1"})
            except (LightningPrivacyError, OSError) as error:
                # Paths and causes are for the one who runs it.
                _LOG.error("no answer: %s", error)
                response = _error(503, "LedgerUnavailable", "answers can't be accounted for at the moment")
            except Exception:  # noqa: BLE001 - the boundary of the service
                _LOG.exception("no answer")
                response = _error(500, "InternalError", "something is wrong in the service; its log says what")
            response.headers.update(_HEADERS)
            seconds = time.perf_counter() - start
            answered = getattr(request.state, "answers", 0)
            self.traffic.request(route, response.status_code, seconds=seconds, answers=answered)
            return response

        return handle


def create_app(
    predictor: PrivatePredictor, *, api_keys: ApiKeys | None, limits: ServiceLimits | None = None
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        predictor: Answers; of an exported model.
        api_keys: Who may ask; None for anybody who reaches it, all with one budget.
        limits: Of requests.

    Raises:
        ConfigurationError: FastAPI is not installed, or the predictor's model was not exported.
    """
    try:
        from fastapi import FastAPI
        from starlette.exceptions import HTTPException
        from starlette.routing import Route
    except ImportError as error:
        raise ConfigurationError("the service needs FastAPI: pip install 'lightning-privacy[serve]'") from error
    service = _Service(predictor, api_keys, limits or ServiceLimits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with Batcher(predictor, on_batch=service.traffic.batch) as service.batcher:
            yield
            service.batcher = None

    async def not_a_route(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        name = {404: "NotFound", 405: "MethodNotAllowed"}.get(status, "HttpError")
        return _error(status, name, f"there is no {request.method} {request.url.path[:80]} here", _HEADERS)

    routes = [
        Route(path, service.handled(path, respond), methods=[method])
        for method, path, respond in (
            ("GET", "/", service.page),
            ("GET", "/health", service.health),
            ("GET", "/metrics", service.metrics),
            ("GET", "/v1/model", service.model),
            ("GET", "/v1/budget", service.budget),
            ("POST", "/v1/predict", service.predict),
        )
    ]
    # Without the pages of documentation, which fetch scripts from another host.
    app = FastAPI(
        title="lightning_privacy",
        routes=list(routes),
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(HTTPException, not_a_route)
    return app


def _records(answers: Answers, card: ModelCard) -> list[dict[str, Any]]:
    names = card.class_names
    records: list[dict[str, Any]] = [{"label": label} for label in answers.labels.tolist()]
    for record in records:
        if names is not None and record["label"] < len(names):
            record["class"] = names[record["label"]]
    if answers.scores is not None:
        for record, scores in zip(records, answers.scores.tolist(), strict=True):
            record["scores"] = scores
    return records


def _slow_down(wait: float) -> None:
    if wait > 0:
        seconds = str(max(1, math.ceil(wait)))
        raise _Refused(429, "TooManyRequests", f"ask again in {seconds} seconds", {"Retry-After": seconds})


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers=headers)


def _error(status: int, name: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": {"name": name, "message": message}}, status, headers)
