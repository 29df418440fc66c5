"""From what was seen to findings. Each rule looks at one problem and says nothing where numbers do not speak for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

from . import by_bytes, by_graph, by_images, by_record
from .records import Finding, Weight
from .seen import Seen

__all__ = ["RULES", "findings_of"]

Rule = Callable[[Seen], Finding | None]

RULES: Final[tuple[Rule, ...]] = (
    by_record.changed_file,
    by_record.not_finite,
    by_record.normalisation_unlike_record,
    by_images.fed_wrongly,
    by_images.labels_shifted,
    by_images.answers_at_chance,
    by_record.labels_unlike_outputs,
    by_record.thousand_and_one,
    by_record.labels_missing,
    by_record.softmax_inside,
    by_record.padding_unlike_table,
    by_record.mixed_padding,
    by_graph.training_mode,
    by_graph.activation_in_pieces,
    by_graph.norms_not_folded,
    by_graph.stray_transposes,
    by_graph.pads_outside,
    by_graph.dynamic_shapes,
    by_graph.planes_for_pixels,
    by_graph.old_opset,
    by_graph.operators_of_one_runtime,
    by_graph.other_provider,
    by_bytes.uncalibrated_ranges,
    by_bytes.saturated_ranges,
    by_bytes.zero_points_out_of_place,
    by_bytes.one_scale_for_all,
    by_bytes.convolutions_left_in_float,
    by_bytes.float_islands,
    by_bytes.float_weights,
    by_bytes.sums_beyond_16_bits,
)


def findings_of(seen: Seen) -> tuple[Finding, ...]:
    """The problems that the numbers speak for; what makes answers wrong first, notes last."""
    order = get_args(Weight)
    found = [finding for rule in RULES if (finding := rule(seen)) is not None]
    return tuple(sorted(found, key=lambda finding: order.index(finding.weight)))
