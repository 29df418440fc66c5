"""A diagnosis as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from .records import Diagnosis, Measured

__all__ = ["diagnosis_text"]

WORST = 5  # classes


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """The causes first, then the numbers."""
    return "\n".join(_lines(diagnosis))


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    m = diagnosis.measured
    low, high = 100 * m.accuracy.top1_low, 100 * m.accuracy.top1_high
    yield f"{m.model} on {m.data}, {m.accuracy.split}: {m.accuracy.n:,} images"
    yield f"  top-1              {100 * m.accuracy.top1:.2f} %  (95 % interval {low:.2f} to {high:.2f} %)"
    yield f"  mean of classes    {100 * m.balanced:.2f} %"
    yield f"  training images    {100 * m.train_top1:.2f} %  ({m.train_n} of them, not augmented)"
    yield f"  calibration error  {m.accuracy.calibration_error:.4f}"
    yield ""
    if not diagnosis.findings:
        yield "Nothing stands out."
    for finding in diagnosis.findings:
        yield f"{finding.sure}: {finding.cause}"
        yield f"  because  {finding.evidence}"
        yield f"  do       {finding.remedy}"
    yield from _classes(m)
    yield from _rows(m)
    t = m.times
    yield f"\na training step of {t.batch_size} images takes {t.total_ms:.1f} ms (median of {t.steps})"
    parts = {"data": t.data_ms, "forward": t.forward_ms, "backward": t.backward_ms, "optimizer": t.optimizer_ms}
    yield "  " + "   ".join(f"{name} {ms:.1f} ms ({100 * ms / t.total_ms:.0f} %)" for name, ms in parts.items())


def _classes(m: Measured) -> Iterator[str]:
    known = sorted(
        (share, label) for share, label in zip(m.accuracy.per_class, m.labels, strict=True) if share is not None
    )
    shown = known[:WORST]
    wide = max(len(label) for _, label in shown)
    yield f"\n{'worst classes':<{max(wide, 13)}}  accuracy"
    for share, label in shown:
        yield f"{label:<{max(wide, 13)}}  {100 * share:6.2f} %"


def _rows(m: Measured) -> Iterator[str]:
    heads = f"{'dead':>11} {'low':>8} {'high':>8} {'dev':>7} {'gradient':>9} {'weights':>8}"
    yield f"\n{'row':<8} {'kind':<11} {'out':>5} {heads}"
    for row in m.rows:
        dead = f"{row.dead}/{row.channels}" if row.channels else "-"
        yield (
            f"{row.name:<8} {row.kind:<11} {row.out:>5} {dead:>11} {row.low:>8.2f} {row.high:>8.2f}"
            f" {row.deviation:>7.2f} {row.gradient:>9.2g} {row.weights:>8.2f}"
        )
