"""Learning from a teacher's embedding: what its classifier reads, whatever classes it knows."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from making import patches, settled_bundle
from mobilenets.arch import ArchSpec, compose
from mobilenets.arch.narrower import narrower
from mobilenets.bundle import Bundle
from mobilenets.errors import RecipeError, UsageError
from mobilenets.export.int8 import starting_ranges
from mobilenets.export.int8.aware import Int8Aware
from mobilenets.nets import Network, build, load_tensors
from mobilenets.nets.nested import places_in
from mobilenets.train import Batch, Distillation, Recipe, Setting, distil
from mobilenets.train.distil import Distil, embedding_loss
from mobilenets.train.elastic import Elastic, check_lesson
from mobilenets.train.elastic_policy import ElasticPolicy
from mobilenets.train.loader import normalise
from mobilenets.train.teacher import Teacher
from train import test_elastic as widths
from train.test_distil import OURS, SIDE, STILL, Source, batch_of, run, setting

ONLY = Distillation(weight=0.0, embedding="cosine")
BASES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v4_conv_small")


def teacher(base: str = "mobilenet_v1", *, width: int | None = None) -> Bundle:
    """Of four classes that the data has not; `width` of its embedding."""
    spec = compose(base, alpha=0.1, resolution=SIDE, stride="small", classes=4)
    if width is not None:
        last = msgspec.structs.replace(spec.rows[-1], out=width)
        spec = msgspec.structs.replace(spec, rows=(*spec.rows[:-1], last))
    return settled_bundle(spec)


def network_of(bundle: Bundle) -> Network:
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    return network.eval()


def read_by_the_classifier(network: Network, images: Tensor) -> Tensor:
    """A witness that knows nothing of `embedding`."""
    read: list[Tensor] = []
    hook = network.head.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    network(images)
    hook.remove()
    return read[0]


def embedding_of(bundle: Bundle, pixels: np.ndarray) -> Tensor:
    with torch.no_grad():
        return read_by_the_classifier(network_of(bundle), normalise(torch.from_numpy(pixels), bundle.preprocess))


def unseen() -> np.ndarray:
    """Images that nobody was trained on."""
    return np.ascontiguousarray(patches(400, SIDE)[-64:])


@pytest.mark.parametrize("base", BASES)
def test_the_loss_is_one_minus_the_cosine_between_what_the_classifiers_read(base: str, tiny_run: ModuleType) -> None:
    made, wise = setting(tiny_run, Recipe(epochs=1.0, label_smoothing=0.0)), teacher(base)
    batch = batch_of(made)
    objective = distil(wise, msgspec.structs.replace(ONLY, embedding_weight=3.0))(made)
    join = objective.modules["embedding"]
    got = objective.learn(batch, step=0)
    gradients = {name: p.grad.clone() for name, p in made.network.named_parameters()}
    of_join = join.weight.grad.clone()
    made.network.zero_grad()
    join.zero_grad()
    theirs = embedding_of(wise, Source().uniform[:8])
    mine = read_by_the_classifier(made.network, batch.images) @ join.weight.T + join.bias
    cosines = (mine * theirs).sum(dim=1) / (mine.norm(dim=1) * theirs.norm(dim=1))
    wanted = F.cross_entropy(made.network(batch.images), batch.targets.classes) + 3 * (1 - cosines).mean()
    wanted.backward()
    torch.testing.assert_close(got, wanted.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_join, join.weight.grad, rtol=1e-3, atol=1e-5)
    for name, p in made.network.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=1e-4)


def test_squared_distances_are_shares_of_the_teachers_variance() -> None:
    theirs = torch.randn(8, 5)
    assert float(embedding_loss(theirs, theirs, distance="squared")) == 0
    mean = theirs.mean().expand(8, 5)
    assert float(embedding_loss(mean, theirs, distance="squared")) == pytest.approx(39 / 40)  # var divides by n - 1
    assert float(embedding_loss(3 * theirs, theirs, distance="cosine")) == pytest.approx(0, abs=1e-6)
    with pytest.raises(RecipeError, match="cosine or squared"):
        embedding_loss(theirs, theirs, distance="angle")


def cousin(tiny_run: ModuleType, *, width: int) -> Bundle:
    """A teacher of the student's kind with other weights and other classes; `width` of its embedding."""
    spec = tiny_run.tiny_spec()
    last = msgspec.structs.replace(spec.rows[-1], out=width)
    return settled_bundle(msgspec.structs.replace(spec, rows=(*spec.rows[:-1], last)))


def both(tiny_run: ModuleType, out: Path, wise: Bundle) -> tuple[Bundle, Bundle]:
    """A student that learned the teacher's embedding beside labels that say nothing, and one that hardly did."""
    made = []
    for name, weight in (("taught", 10.0), ("alone", 1e-9)):
        how = Distillation(weight=0.0, embedding="cosine", embedding_weight=weight)
        changes = {"epochs": 15.0, "lr": 4.0, "source": Source(192), **STILL}
        made.append(run(out / name, tiny_run, distil(wise, how), **changes).last)
    return made[0], made[1]


def test_a_students_embedding_comes_near_the_teachers_on_images_it_has_not_seen(
    tiny_run: ModuleType, tmp_path: Path
) -> None:
    wise = cousin(tiny_run, width=16)  # as wide as the student's, so that the two can be compared as they are
    taught, alone = both(tiny_run, tmp_path, wise)
    theirs = embedding_of(wise, unseen())
    near, far = (embedding_of(bundle, unseen()) for bundle in (taught, alone))
    assert F.cosine_similarity(near, theirs, dim=1).mean() > 0.95
    assert F.cosine_similarity(far, theirs, dim=1).mean() < 0.8
    # Activations are above 0, so all embeddings are somewhat alike: what differs from image to image counts more.
    near, far, theirs = (each - each.mean(dim=0) for each in (near, far, theirs))
    assert F.cosine_similarity(near, theirs, dim=1).mean() > 0.7
    assert F.cosine_similarity(far, theirs, dim=1).mean() < 0.3
    told = taught.history[-1]["teacher"]
    assert (told["digest"], told["embedding"], told["embedding_weight"]) == (wise.digest, "cosine", 10.0)


@pytest.mark.slow  # two trainings
def test_through_a_projection_images_that_are_alike_to_the_teacher_become_alike_to_the_student(
    tiny_run: ModuleType, tmp_path: Path
) -> None:
    wise = cousin(tiny_run, width=24)

    def likeness(bundle: Bundle) -> Tensor:
        own = embedding_of(bundle, unseen())
        own = F.normalize(own - own.mean(dim=0), dim=1)
        return (own @ own.T)[*torch.triu_indices(len(own), len(own), offset=1)]

    agreed = []
    for student in both(tiny_run, tmp_path, wise):
        assert student.tensors.keys() == settled_bundle(student.spec).tensors.keys()  # the projection is left behind
        agreed.append(float(torch.corrcoef(torch.stack([likeness(student), likeness(wise)]))[0, 1]))
    assert agreed[0] > 0.7
    assert agreed[1] < 0.4


@pytest.mark.parametrize("changes", [{}, STILL], ids=["asked each time", "embeddings kept"])
@pytest.mark.parametrize("width", [None, 16], ids=["projected", "as wide"])
def test_a_run_that_goes_on_ends_bit_equal(
    width: int | None, changes: dict, tiny_run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenets.train.loop.CHECKPOINT_SECONDS", 0.0)
    wise = teacher(width=width)

    def dies(made: Setting) -> Distil:
        objective = distil(wise, ONLY)(made)
        assert ("embedding" in objective.modules) == (width is None)
        learn = objective.learn

        def until(batch: Batch, *, step: int) -> Tensor:
            if step == 7:
                raise KeyboardInterrupt
            return learn(batch, step=step)

        objective.learn = until
        return objective

    whole = run(tmp_path / "whole", tiny_run, distil(wise, ONLY), **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", tiny_run, dies, **changes)
    rest = run(tmp_path / "part", tiny_run, distil(wise, ONLY), resume="must", **changes)
    assert rest.last.digest == whole.last.digest
    other = msgspec.structs.replace(ONLY, embedding="squared")
    with pytest.raises(UsageError, match="not the same as then: the objective"):
        run(tmp_path / "part", tiny_run, distil(wise, other), resume="must", **changes)


def test_kept_embeddings_are_those_that_the_teacher_gives_beside_its_answers(tiny_run: ModuleType) -> None:
    wise = replace(teacher("mobilenet_v3_small"), labels=("c", "x", "a", "b"))
    still, moving = setting(tiny_run, Recipe(epochs=1.0, **STILL)), setting(tiny_run, Recipe(epochs=1.0))
    kept, asked = (Teacher(made, wise, embedding=True) for made in (still, moving))
    assert (kept.keeps, asked.keeps) == (True, False)
    batch = batch_of(still, count=40)
    found, made = kept.seen(batch), asked.seen(batch)
    assert found.logits.shape == (40, 3)
    assert found.embedding.shape == (40, wise.spec.head.hidden)
    torch.testing.assert_close(found.logits, made.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.embedding, made.embedding, rtol=1e-4, atol=1e-5)


def test_the_embedding_may_stand_beside_answers_and_maps(tiny_run: ModuleType) -> None:
    wise = replace(teacher(), labels=("c", "x", "a", "b"))
    made = setting(tiny_run, Recipe(epochs=1.0))
    objective = distil(wise, Distillation(features=(2,), embedding="cosine"))(made)
    assert set(objective.modules) == {"projections", "embedding"}
    both = float(objective.learn(batch_of(made), step=0))
    without = setting(tiny_run, Recipe(epochs=1.0))
    plain = distil(wise, Distillation(features=(2,)))(without)
    plain.modules["projections"].load_state_dict(objective.modules["projections"].state_dict())
    assert both > float(plain.learn(batch_of(without), step=0))


def test_a_teacher_without_a_trained_classifier_has_an_embedding_to_teach(tiny_run: ModuleType) -> None:
    fresh = replace(teacher(), history=({"step": "import", "classifier": "none in the file"},))
    made = setting(tiny_run, Recipe(epochs=1.0))
    assert torch.isfinite(distil(fresh, ONLY)(made).learn(batch_of(made), step=0))
    for wrong, told in ((fresh, "was never trained"), (teacher(), "match its maps or embedding alone: weight 0")):
        with pytest.raises(UsageError, match=told):
            distil(wrong, Distillation(embedding="cosine"))(made)


def test_it_is_learned_through_the_roundings_of_an_int8_file(tiny_run: ModuleType) -> None:
    spec: ArchSpec = tiny_run.tiny_spec()
    begun = replace(settled_bundle(spec), preprocess=OURS)
    start = starting_ranges(begun, Source().uniform)
    made = replace(setting(tiny_run, Recipe(epochs=1.0, recalibrate=0)), network=network_of(begun).train())
    objective = Int8Aware(made, start, distil(teacher(), ONLY))
    assert torch.isfinite(objective.learn(batch_of(made), step=0))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in objective.modules["embedding"].parameters())


def test_every_width_learns_a_teachers_embedding_through_leading_columns_of_one_layer() -> None:
    policy = ElasticPolicy(narrowest=0.5, between=0, resolutions=(12, 16), largest=0.75, smallest=0.5, distil=0.25)
    other = replace(widths.wise(), labels=("w", "x", "y", "z"))  # whose answers nobody here could learn
    how = Distillation(weight=0.0, embedding="cosine", embedding_weight=2.0)
    data, setting = widths.pictures(), widths.setting_of(widths.table())
    objective = Elastic(setting, policy, teacher=other, how=how)
    join = objective.modules["embedding"]
    step = next(s for s in range(40) if [p.resolution for p in objective.passes(s, count=16, done=1.0)] == [16, 12])
    first, second = objective.passes(step, count=16, done=1.0)
    narrow = widths.alone(setting.network, widths.table(), 0.5)
    network = build(other.spec).eval()
    load_tensors(network, other.tensors)
    read = {}
    for name, one in (("teacher", network), ("wide", setting.network), ("narrow", narrow)):
        keep = partial(read.__setitem__, name)
        one.head.classifier.register_forward_pre_hook(lambda _, inputs, keep=keep: keep(inputs[0]))
    with torch.no_grad():
        pixels = torch.from_numpy(widths.Pictures().uniform[:16].copy())
        size = (SIDE + 4, SIDE + 4)
        network(F.interpolate(normalise(pixels, other.preprocess), size, mode="bilinear", antialias=True))

    def apart(vector: Tensor, part: slice) -> Tensor:
        own = vector @ join.weight[:, : vector.shape[1]].T + join.bias
        return 2 * (1 - (F.normalize(own, dim=1) * F.normalize(read["teacher"][part], dim=1)).sum(dim=1)).mean()

    logits = setting.network(data.images[first.images])
    wide_loss = F.cross_entropy(logits, data.targets.classes[first.images]) + apart(read["wide"], first.images)
    wide_loss.backward()
    own = narrow(F.interpolate(data.images[second.images], (12, 12), mode="bilinear", antialias=True))
    assert read["narrow"].shape[1] == read["wide"].shape[1] // 2
    loss = 0.75 * F.cross_entropy(own, data.targets.classes[second.images])
    loss = loss + 0.25 * widths.softened(own, logits[second.images], 4.0)
    (loss + apart(read["narrow"], second.images)).backward()
    wanted = {name: p.grad.clone() for name, p in setting.network.named_parameters()}
    of_join = join.weight.grad.clone()
    places = places_in(widths.table(), narrower(widths.table(), 0.5))
    for name, p in narrow.named_parameters():
        wanted[name][places[name]] += p.grad
    setting.network.zero_grad(set_to_none=True)
    join.zero_grad(set_to_none=True)
    torch.testing.assert_close(objective.learn(data, step=step), wide_loss.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(join.weight.grad, of_join, rtol=1e-3, atol=1e-5)
    for name, p in setting.network.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-3, atol=1e-5)


def test_what_cannot_be_learned_is_refused_by_name() -> None:
    for field, value in (("embedding", "angle"), ("embedding_weight", 0.0)):
        with pytest.raises(RecipeError, match=field):
            Distillation(**{field: value})
    check_lesson(ONLY)  # may be learned by all widths, unlike maps


def test_a_lesson_without_it_is_told_as_before_so_that_older_runs_go_on() -> None:
    assert set(Distillation().told) == {"temperature", "weight", "features", "feature_weight"}
    assert ONLY.told["embedding"] == "cosine"
