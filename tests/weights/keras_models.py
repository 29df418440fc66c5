"""Makes Keras' MobileNets and what they answer, in a process of its own: python keras_models.py FOLDER

Run by `test_keras_parity.py`. Batch norms hold the statistics of real activations, as after training.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from keras.applications import MobileNet, MobileNetV2, MobileNetV3Large, MobileNetV3Small

SIDE = 64
CLASSES = 10
MAKERS = {"v1": MobileNet, "v2": MobileNetV2, "large": MobileNetV3Large, "small": MobileNetV3Small}
# name of the file: family, alpha, other arguments
MODELS = {
    "v1_0.25": ("v1", 0.25, {}),
    "v1_1.0": ("v1", 1.0, {}),
    "v2_0.35": ("v2", 0.35, {}),
    "v2_1.0": ("v2", 1.0, {}),
    "v2_1.4": ("v2", 1.4, {}),
    "v3_large_0.75": ("large", 0.75, {}),
    "v3_large_1.0": ("large", 1.0, {}),
    "v3_small_0.75": ("small", 0.75, {}),
    "v3_small_1.0": ("small", 1.0, {}),
    "v3_small_0.5": ("small", 0.5, {}),  # 16 channels in the stem, which our own 0.5 has not
    "v3_large_minimalistic_1.0": ("large", 1.0, {"minimalistic": True}),
    "v3_small_minimalistic_1.0": ("small", 1.0, {"minimalistic": True}),
    "v3_small_minimalistic_0.75": ("small", 0.75, {"minimalistic": True}),
}


def settle(model: keras.Model, images: np.ndarray) -> None:
    """Draw scales and shifts, and set the statistics to those of `images`."""
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(generator.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(generator.normal(0, 0.1, layer.beta.shape))
            layer.momentum = 0.0
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and layer.bias is not None:
            layer.bias.assign(generator.normal(0, 0.1, layer.bias.shape))
    model(images, training=True)


def make(family: str, alpha: float, **arguments: object) -> keras.Model:
    keras.utils.set_random_seed(5)
    top = {"classes": CLASSES, "classifier_activation": None} if arguments.get("include_top", True) else {}
    return MAKERS[family](input_shape=(SIDE, SIDE, 3), alpha=alpha, weights=None, **top, **arguments)


def with_dense(backbone: keras.Model, outputs: int, *, rescale: bool) -> keras.Model:
    """A backbone under one dense layer, as Keras' transfer-learning guide has it."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs) if rescale else inputs
    x = keras.layers.GlobalAveragePooling2D()(backbone(x, training=False))
    return keras.Model(inputs, keras.layers.Dense(outputs)(keras.layers.Dropout(0.2)(x)))


def main(folder: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (6, SIDE // 4, SIDE // 4, 3)).astype("float32")
    images = np.kron(images, np.ones((1, 4, 4, 1), "float32"))
    logits = {"images": images.astype("uint8")}
    for name, (family, alpha, arguments) in MODELS.items():
        model = make(family, alpha, **arguments)
        inputs = images if family in ("large", "small") else images / 127.5 - 1
        settle(model, inputs)
        logits[name] = np.array(model.predict(inputs, verbose=0))
        model.save_weights(folder / f"{name}.weights.h5")
        if name in ("v2_0.35", "v3_small_0.75"):
            model.compile("adam", "categorical_crossentropy")
            model.fit(inputs, np.eye(CLASSES)[:6], verbose=0)  # for an optimizer's state in the file
            logits[f"{name}_fitted"] = np.array(model.predict(inputs, verbose=0))
            model.save(folder / f"{name}_fitted.keras")
            model.save(folder / f"{name}_fitted.h5")
    for name, family, outputs in (("v1_dense", "v1", 4), ("v2_dense", "v2", 1), ("v3_dense", "small", 4)):
        backbone = make(family, 0.35, include_top=False)
        settle(backbone, images if family == "small" else images / 127.5 - 1)
        model = with_dense(backbone, outputs, rescale=family != "small")
        logits[name] = np.array(model.predict(images, verbose=0))
        for suffix in (".weights.h5", ".keras", ".h5"):
            (model.save_weights if suffix == ".weights.h5" else model.save)(folder / f"{name}{suffix}")
    for family, pooling in (("v1", None), ("small", "avg")):
        backbone = make(family, 0.5, include_top=False, pooling=pooling)
        inputs = images if family == "small" else images / 127.5 - 1
        settle(backbone, inputs)
        backbone.save_weights(folder / f"{family}_no_top.weights.h5")
        features = np.array(backbone.predict(inputs, verbose=0))
        logits[f"{family}_no_top"] = features if pooling else features.mean((1, 2))
    np.savez(folder / "logits.npz", **logits)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
