"""`mobilenets models`: which networks are known by name?"""

from __future__ import annotations

from typing import Any

import click

__all__ = ["command"]

EXAMPLES = (
    ("mobilenet_v2", "the paper's own: width 1.0 at 224 pixels"),
    ("mobilenet_v1_0.75_192", "width multiplier 0.75, 192 pixels"),
    ("mobilenet_v2_1.4_224", "wider than the paper's table"),
    ("mobilenet_v2_0.5_32_s8", "32 pixels, strides turned off until the total stride is 8"),
    ("mobilenet_v1_shallow_0.5_160", "a variant: V1 without its repeated rows"),
    ("mobilenetv3_small_075", "timm's name for mobilenet_v3_small_0.75_224"),
)


@click.command(name="models", short_help="List the networks that are known by name.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, one object per network.")
def command(as_json: bool) -> None:
    """List the networks that are known by name, with what they cost.

    \b
    All of them, and their names alone:
        mobilenets models
        mobilenets models --json | jq -r .[].name
    """
    from ..arch import VARIANTS

    entries = _entries()
    if as_json:
        import json

        click.echo(json.dumps(entries, indent=2))
        return
    wide = max(len(entry["name"]) for entry in entries)
    click.echo(f"{'name':<{wide}}  parameters   mult-adds  pixels  paper")
    for entry in entries:
        click.echo(
            f"{entry['name']:<{wide}}  {entry['parameters']:>10,} {entry['mult_adds'] / 1e6:>9.1f} M"
            f"  {entry['resolution']:>6}  {entry['paper']}"
        )
    click.echo("\nNAME_ALPHA_RESOLUTION sets the width multiplier and the input's side in pixels:")
    for name, about in EXAMPLES:
        click.echo(f"  {name:<28} {about}")
    click.echo(f"\nVariants, named in the same way: {', '.join(VARIANTS)}")
    click.echo("\nMore about one: mobilenets info NAME")


def _entries() -> list[dict[str, Any]]:
    from ..arch import CATALOG, cost

    entries: list[dict[str, Any]] = []
    for name, make in CATALOG.items():
        spec = make()
        counted = cost(spec)
        entries.append(
            {
                "name": name,
                "paper": spec.paper,
                "parameters": counted.parameters,
                "mult_adds": counted.mult_adds,
                "size_mb": counted.size_mb,
                "resolution": spec.resolution,
                "names": f"{name}[_ALPHA][_RESOLUTION]",
                "examples": [name, f"{name}_0.75_192"],
            }
        )
    return entries
