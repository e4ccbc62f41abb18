"""What the service answers, as its OpenAPI page describes it."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, Field

from ..decisions import decide_parts
from ..inspection.predict import Prediction
from ..teaching import Report
from ..thresholds import Thresholds


class Box(BaseModel):
    """Edges in pixels of the photo; xmax and ymax are exclusive."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Region(BaseModel):
    """A marked place."""

    box: Box
    score: float = Field(description="Highest value of the anomaly map in it.")
    area: int = Field(description="Marked pixels.")


class Verdict(BaseModel):
    """The decision on one photo."""

    name: str = Field(description="The uploaded file's name.")
    product: str | None = Field(description="Told or recognized; null if the photo was compared with all products.")
    label: str | None = Field(description="normal, defective, unknown product or uncertain; null without a threshold.")
    score: float = Field(description="Raw, higher is more anomalous; that of `anople predict`.")
    threshold: float | None = Field(description="Score above which a part is defective.")
    ratio: float | None = Field(description="Score / threshold; 1 is at the threshold.")
    boxes: list[Region] = Field(description="Strongest first; empty for a good part.")
    remark: str = Field(
        "", description="Why the photo does not fit what its product was taught with, such as its depth."
    )
    heat_map: str | None = Field(None, description="The photo under its heat map, a PNG in base64, if asked for.")

    @classmethod
    def of(cls, prediction: Prediction, name: str, heat_map: str | None = None) -> Self:
        """What was found on a photo."""
        result, edges = prediction.result, ("xmin", "ymin", "xmax", "ymax")
        return cls(
            name=name,
            product=prediction.category,
            **{key: result[key] for key in ("label", "score", "threshold", "ratio")},
            boxes=[
                Region(box=Box(**dict(zip(edges, r["box"], strict=True))), score=r["peak"], area=r["area"])
                for r in result["regions"]
            ],
            remark=prediction.remark,
            heat_map=heat_map,
        )


class Part(BaseModel):
    """The decision on one part, from all of its views."""

    part: str = Field(description="As it was sent.")
    product: str = Field(description="The products of its views, separated by commas; empty if none is known.")
    label: str | None = Field(
        description="The worst of its views': defective, unknown product, uncertain, null without a threshold, normal."
    )
    ratio: float | None = Field(description="The highest of its views'.")
    views: int = Field(description="Photos of it.")
    worst: int = Field(description="Place in `results` of the photo that made the label.")


class Verdicts(BaseModel):
    """One for each photo, in the order they were sent."""

    results: list[Verdict]
    parts: list[Part] = Field(
        description="One for each part, in the order they came, if it was said what shows which."
    )

    @classmethod
    def of(cls, results: list[Verdict], parts: Sequence[str] = ()) -> Self:
        """Verdicts of photos, and of the parts that they show, one for each photo."""
        rows = [found.model_dump(include={"label", "ratio"}) | {"category": found.product} for found in results]
        return cls(
            results=results,
            parts=[Part(product=row.pop("category"), **row) for row in decide_parts(rows, parts)] if parts else [],
        )


class Threshold(BaseModel):
    """When a product's part is defective, and what that stands on."""

    threshold: float
    promise: str = Field(description="What is known about the false-alarm rate.")
    false_alarm_rate: float | None
    date: str

    @classmethod
    def of(cls, known: Thresholds | None) -> Self | None:
        """None stays None."""
        if known is None:
            return None
        rate = known.false_alarm_rate
        return cls(threshold=known.threshold, promise=known.promise, false_alarm_rate=rate, date=known.date)


class Product(BaseModel):
    """A known product."""

    product: str
    photos: int = Field(description="Good photos that are remembered.")
    threshold: Threshold | None


class Change(BaseModel):
    """What teaching or a new threshold did to a product, and why."""

    product: str
    added: list[str] = Field(description="Photos that are new.")
    known: list[str] = Field(description="Photos that were known already.")
    copies: list[str] = Field(description="Photos that show the same as another one; left out.")
    look_at: list[str] = Field(description="Photos that may not be what they were sent as, a sentence each.")
    before: Threshold | None
    after: Threshold | None
    why: str = Field(description="Why the threshold changed, or did not.")
    report: list[str] = Field(description="All of it, for people.")

    @classmethod
    def of(cls, report: Report) -> Self:
        """From the report of the act."""
        return cls(
            product=report.product,
            added=report.added,
            known=report.known,
            copies=[name for name, _ in report.copies],
            look_at=report.suspicious,
            before=Threshold.of(report.before),
            after=Threshold.of(report.after),
            why=report.why,
            report=report.lines(),
        )


class NewThreshold(BaseModel):
    """A threshold to be set."""

    product: str
    threshold: float | str = Field(description="The score, or `learned`: what the product's photos set.")


class About(BaseModel):
    """What is served."""

    version: str = Field(description="Of anople-hf.")
    detector: str = Field(description="The run's folder, or its Hub id.")
    fingerprint: str = Field(description="SHA-256 of the detector's files; changes with whatever changes a score.")
    products: int
    device: str


class Error(BaseModel):
    """What was wrong and what to do, in one sentence."""

    error: str


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors for the OpenAPI page."""
    return {status: {"model": Error} for status in statuses}


__all__ = [
    "About",
    "Change",
    "Error",
    "NewThreshold",
    "Part",
    "Product",
    "Threshold",
    "Verdict",
    "Verdicts",
    "described",
]
