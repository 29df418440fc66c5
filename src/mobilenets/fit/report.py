"""The report of a fit on disk: `report.json` and the page that shows the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ..data import Dataset
from ..errors import DataError
from ..files import write_json, write_text
from ..records import to_json
from .page import page
from .records import FitReport, Mistake

__all__ = ["REPORT_NAME", "write_report"]

REPORT_NAME = "report.json"
THUMBNAIL_SIDE = 128  # pixels at most


def write_report(out: Path, report: FitReport, *, dataset: Dataset) -> None:
    """Write `report.json` and `report.html`; pictures of mistakes are taken from the data set.

    Raises:
        UsageError: the folder cannot be written.
    """
    split = report.delivered[0].accuracy.split
    thumbnails = _thumbnails(report.mistakes, dataset, split)
    write_text(out / "report.html", page(report, thumbnails=thumbnails))
    write_json(out / REPORT_NAME, to_json(report))


def _thumbnails(mistakes: tuple[Mistake, ...], dataset: Dataset, split: str) -> Mapping[str, bytes]:
    source = dataset.splits[split]  # type: ignore[index]  # "val" or "test", both keys
    places = {name: place for place, name in enumerate(source.names)}
    pictures = {}
    for mistake in mistakes:
        try:
            image = source.image(places[mistake.image])
        except DataError:
            continue  # it could be read when it was judged; a picture less is no reason to lose the report
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        pictures[mistake.image] = buffer.getvalue()
    return pictures
