"""The service's application: what is asked by HTTP, and what is answered.

Scores, decisions and reports are those of `anople predict`, `teach` and `threshold`. Every error is JSON with one
sentence. `/health` and `/ready` need no token, nor does the page that describes the service.
"""

import asyncio
import base64
import hmac
import io
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..framing import FramingRequest
from ..inspection.predict import Prediction
from ..training.configuration import Turns
from .answers import About, Change, NewThreshold, Product, Threshold, Verdict, Verdicts, described
from .detector import ReadOnlyError, ServedDetector
from .metrics import Metrics
from .scoring import BusyError, Scorer
from .uploads import LimitBody, Limits, read_uploads

logger = logging.getLogger(__name__)

FILES: dict[str, Any] = {"items": {"type": "string", "format": "binary"}}
"""How photos are described: the service's page asks for files then, not for text. An empty `example` keeps it from
sending "string" for a field that is left out."""
INSIDE = "the service failed inside; its log says why."
DESCRIPTION = "Few-shot visual anomaly detection: send photos, get decisions; teach products with good photos."


def build(
    detector: ServedDetector,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    batch_size: int = 16,
    waiting: int = 128,
) -> FastAPI:
    """The application around a detector.

    Args:
        detector: What is served.
        token: Clients must send it as `Authorization: Bearer TOKEN`; None lets everybody in.
        limits: What one request may bring.
        batch_size: Photos in one pass.
        waiting: Photos that may wait at a time; more are refused with 503. Never fewer than one request may bring.
    """
    limits, metrics = limits or Limits(), Metrics()
    scorer = Scorer(detector, batch_size=batch_size, most=max(waiting, limits.photos), observe=metrics.batches.observe)
    metrics.waiting.set_function(lambda: scorer.waiting)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        with scorer:
            yield

    api: FastAPI = FastAPIOffline(
        title="AnoPLe",
        version=__version__,
        description=DESCRIPTION,
        lifespan=running,
        redoc_url=None,
        openapi_tags=[{"name": name} for name in ("photos", "products", "operation")],  # in this order
    )
    api.add_middleware(LimitBody, megabytes=limits.megabytes)
    api.add_middleware(Counted, metrics=metrics)
    _answer_errors(api)
    bearer = HTTPBearer(auto_error=False, description="The service's token, if it has one.")

    def admit(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if token is None:  # a page of any site can send a form to this machine, but it knows no token
            origin = request.headers.get("origin")
            if origin and urlsplit(origin).netloc != request.headers.get("host"):
                raise HTTPException(403, "a page of another site may not use a service without a token.")
            return
        if given is None or not hmac.compare_digest(given.credentials.encode("latin-1"), token.encode()):
            sentence = "this service needs its token: send the header Authorization: Bearer TOKEN."
            raise HTTPException(401, sentence, {"WWW-Authenticate": "Bearer"})

    inside = APIRouter(dependencies=[Depends(admit)], responses=described(401, 403))

    @inside.post("/score", tags=["photos"], responses=described(404, 413, 422, 503))
    async def score(
        photos: Annotated[list[UploadFile], File(description="One or several photos.", json_schema_extra=FILES)],
        product: Annotated[
            str | None,
            Form(description="What they show, if you know: better and faster.", json_schema_extra={"example": ""}),
        ] = None,
        heat_map: Annotated[bool, Form(description="Send the heat maps, too.")] = False,
        part: Annotated[
            list[str] | None,
            Form(
                description="The part that the photos show, or one for each photo: it gets one verdict, too.",
                json_schema_extra={"example": []},
            ),
        ] = None,
    ) -> Verdicts:
        """Judge photos: score, threshold, decision and boxes of each, and of the parts that they show."""
        if not detector.products:
            raise HTTPException(503, "nothing was taught yet; teach a product first.")
        if product:
            _require(detector, product)
        limits.check(photos)
        parts = (part or []) * (len(photos) if part and len(part) == 1 else 1)
        if parts and len(parts) != len(photos):
            raise HTTPException(
                422, f"part: {len(parts)} for {len(photos)} photos; expected one for all, or one each."
            )
        with scorer.room(len(photos)):
            images, names = await read_uploads(photos, limits)
            answers = scorer.submit(images, product or None)
            found = await asyncio.gather(*map(asyncio.wrap_future, answers))
            maps = [await run_in_threadpool(_png, detector, one) if heat_map else None for one in found]
        for prediction in found:
            label = prediction.result["label"] or "no threshold"
            metrics.photos.labels(prediction.category or "any", label).inc()
        return Verdicts.of([Verdict.of(*item) for item in zip(found, names, maps, strict=True)], parts)

    @inside.get("/products", tags=["products"])
    def products() -> list[Product]:
        """The known products."""
        bank = detector.model.memory
        known = [(name, bank.product(name)) for name in bank.categories]
        return [
            Product(product=name, photos=len(found.photos), threshold=Threshold.of(found.thresholds))
            for name, found in known
        ]

    @inside.post("/teach", tags=["products"], responses=described(409, 413, 422, 503))
    async def teach(
        photos: Annotated[list[UploadFile], File(description="Good photos.", json_schema_extra=FILES)],
        product: Annotated[str, Form(description="Its name, new or known.")],
        false_alarm_rate: Annotated[
            float | None, Form(gt=0, lt=1, description="Share of good parts that may be called defective.")
        ] = None,
        strict: Annotated[bool, Form(description="Refuse photos far from the others, or of another product.")] = False,
        turns: Annotated[
            Turns | None,
            Form(description="Positions in which its parts lie, as for `anople teach`."),
        ] = None,
        region: Annotated[
            str | None, Form(description="What counts: x,y,w,h or a polygon x,y x,y x,y in photo pixels, or whole.")
        ] = None,
        tiles: Annotated[str, Form(description="Cut photos into rows x columns, such as 2x3, or auto.")] = "",
        smallest: Annotated[str, Form(description="tiles=auto: smallest defect wanted, in photo pixels.")] = "",
    ) -> Change:
        """Teach a product from good photos and save it into the run; scoring goes on meanwhile."""
        limits.check(photos)
        if region is not None and region != "whole" and not set(region) <= set("0123456789.,- "):  # no path of ours
            raise HTTPException(422, "region: expected x,y,w,h, or x,y x,y x,y ..., or whole.")
        framing = FramingRequest(region, tiles, smallest)
        with scorer.room(len(photos)):
            images, names = await read_uploads(photos, limits)
            how: dict[str, Any] = {
                "false_alarm_rate": false_alarm_rate,
                "strict": strict,
                "turns": turns,
                "framing": framing,
            }
            return Change.of(await run_in_threadpool(detector.teach, images, product, names, **how))

    @inside.get("/thresholds", tags=["products"])
    def thresholds() -> dict[str, Threshold | None]:
        """The threshold of each product."""
        bank = detector.model.memory
        return {name: Threshold.of(bank.product(name).thresholds) for name in bank.categories}

    @inside.put("/thresholds", tags=["products"], responses=described(404, 409, 422))
    def set_threshold(wanted: NewThreshold) -> Change:
        """Set a product's threshold by hand, or give back the one that its photos set, and save it into the run."""
        _require(detector, wanted.product)
        value = None if wanted.threshold == "learned" else wanted.threshold
        if isinstance(value, str):
            raise HTTPException(422, f"threshold {value!r}: expected a number, or learned.")
        return Change.of(detector.set_threshold(wanted.product, value))

    @api.get("/health", tags=["operation"], responses=described(503))
    async def health() -> dict[str, str]:
        """Whether the process works; if not, start it again."""
        if not scorer.alive:
            raise HTTPException(503, "the scoring thread has ended; start the service again.")
        return {"status": "ok"}

    @api.get("/ready", tags=["operation"], responses=described(503))
    async def ready() -> dict[str, str]:
        """Whether photos can be scored now."""
        await health()
        if not detector.products:
            raise HTTPException(503, "nothing was taught yet; teach a product first.")
        if scorer.waiting >= scorer.most:
            raise HTTPException(503, f"{scorer.waiting} photos wait; send more when there are fewer.")
        return {"status": "ready"}

    @inside.get("/version", tags=["operation"])
    async def version() -> About:
        """The package's version and the detector."""
        return About(
            version=__version__,
            detector=detector.name,
            fingerprint=detector.fingerprint,
            products=len(detector.products),
            device=str(detector.model.device),
        )

    @inside.get("/metrics", tags=["operation"], response_class=Response)
    def page() -> Response:
        """Counters in Prometheus' text format."""
        metrics.thresholds.clear()
        for name, known in thresholds().items():
            if known is not None:
                metrics.thresholds.labels(name).set(known.threshold)
        metrics.detector.info({"version": __version__, "fingerprint": detector.fingerprint})
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    api.include_router(inside)
    return api


class Counted:
    """ASGI middleware that counts and times requests by the path they were routed to.

    Args:
        app: The application behind it.
        metrics: Where.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # what was asked for could be anything
            self.metrics.requests.labels(scope["method"], path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - started)


def _answer_errors(api: FastAPI) -> None:
    """One sentence of JSON for whatever goes wrong."""

    def answer(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @api.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        sentence = str(error.detail)
        if error.status_code in (404, 405) and sentence in ("Not Found", "Method Not Allowed"):
            sentence = f"{request.method} {request.url.path} is not offered; /docs lists what is."
        return answer(error.status_code, sentence, dict(error.headers or {}))

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return answer(422, f"{place}: {first['msg']}.")

    @api.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return answer(503, str(error), {"Retry-After": "1"})

    @api.exception_handler(ReadOnlyError)
    async def read_only(_: Request, error: ReadOnlyError) -> JSONResponse:
        return answer(409, str(error))

    @api.exception_handler(ValueError)
    async def unusable(_: Request, error: ValueError) -> JSONResponse:
        logger.warning("refused: %s", error)
        return answer(422, str(error))

    @api.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return answer(500, INSIDE)


def _require(detector: ServedDetector, product: str) -> None:
    if product not in detector.products:
        known = ", ".join(detector.products) or "none"
        raise HTTPException(404, f"unknown product {product!r}; known: {known}.")


def _png(detector: ServedDetector, prediction: Prediction) -> str:
    buffer = io.BytesIO()
    detector.draw(prediction).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


__all__ = ["build"]
