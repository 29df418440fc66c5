"""A network of your own: write its rows, count it, train it on digits, export it, and run the file without torch.

python examples/own_table.py [--epochs E] [--out FOLDER]

The folder keeps the table (`table.json`, which `mobilenets info`, `train` and `elastic --arch` take where they take a
name), the training's run, and the artifact. Called again, it goes on where it was.
"""

import argparse
from pathlib import Path

from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, Norm, SeparableRow, cost, with_width
from mobilenets.data import open_dataset, prepared
from mobilenets.export import GateImages, export
from mobilenets.files import write_json
from mobilenets.runtime import evaluate, open_artifact
from mobilenets.train import Recipe, train_run

# V1's rows while the map is large and V2's behind, for images of 28 pixels. What a row does not say, its paper says.
TABLE = ArchSpec(
    name="thumbnails",
    paper="own",
    rows=(
        ConvRow(out=16, stride=2),
        SeparableRow(out=24),
        SeparableRow(out=32, stride=2),
        BottleneckRow(out=32, expanded=96),
        BottleneckRow(out=48, expanded=96, kernel=5, stride=2),
        BottleneckRow(out=48, expanded=144, kernel=5, squeezed=36),
        ConvRow(out=192, kernel=1),
    ),
    head=ClassifierHead(classes=10),
    norm=Norm(eps=1e-3, momentum=0.1),
    resolution=28,
    channels=1,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path("runs/own_table"))
    given = parser.parse_args()

    # A knob makes another table of a table, of yours as well.
    for spec in (TABLE, with_width(TABLE, 0.5)):
        counted = cost(spec)
        print(
            f"{spec.rows[0].out:3} channels in the stem: {counted.parameters} parameters, {counted.mult_adds} mult-adds"
        )
    write_json(given.out / "table.json", TABLE.to_json())

    digits = open_dataset("digits")
    recipe = Recipe(epochs=given.epochs, batch_size=128)
    bundle = train_run(TABLE, digits, recipe, out=given.out / "run", resume="if_there").best

    # Nothing is written unless the file answers like the network it came from.
    test = prepared(digits, "test", bundle.preprocess)
    export(bundle, given.out / "fp32", images=GateImages(images=test.images, targets=test.targets, on="test"))
    told = evaluate(open_artifact(given.out / "fp32"), test.images, test.targets)
    print(f"{100 * told.top1:.1f} % of {len(test.images)} test digits, answered by ONNX Runtime")


if __name__ == "__main__":
    main()
