"""Several widths in a step: which, from which images, with which gradients, and the same after a stop."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from making import settled_bundle
from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, Norm, compose, cost
from mobilenets.arch.narrower import narrower
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.errors import RecipeError, SpecError, UsageError
from mobilenets.nets import build, load_tensors, tensors_of
from mobilenets.nets.nested import places_in
from mobilenets.records import Preprocess
from mobilenets.tasks import Targets
from mobilenets.train import Batch, Distillation, EvalPixels, Outcome, Recipe, Setting, train
from mobilenets.train.checkpoint import read_progress
from mobilenets.train.elastic import Elastic, elastic
from mobilenets.train.elastic_policy import ElasticPolicy, with_policy
from mobilenets.train.loader import Batches, normalise

SIDE = 16
LABELS = ("a", "b", "c")
RECIPE = Recipe(epochs=4.0, batch_size=16, lr=0.1, precision="fp32", label_smoothing=0.0)
FAMILIES = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v3_small_minimalistic",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_hybrid_medium",
)


class Pictures:
    """48 images of noise in three classes."""

    def __init__(self, channels: int = 3) -> None:
        self.uniform = np.random.default_rng(0).integers(0, 256, (48, SIDE, SIDE, channels), dtype=np.uint8)
        self.targets = np.arange(48, dtype=np.int64) % 3

    def pixels(self, index: int) -> np.ndarray:
        return self.uniform[index]


def table() -> ArchSpec:
    """Widths that halve without rounding up; no dropout, so that losses can be computed twice."""
    return ArchSpec(
        name="mine",
        paper="none",
        rows=(ConvRow(out=32, stride=2), BottleneckRow(out=32, expanded=64, squeezed=16), ConvRow(out=64, kernel=1)),
        head=ClassifierHead(classes=3, dropout=0.0),
        norm=Norm(eps=1e-5, momentum=0.1),
        resolution=SIDE,
    )


def setting_of(spec: ArchSpec, recipe: Recipe = RECIPE, *, dtype: torch.dtype = torch.float32) -> Setting:
    torch.manual_seed(0)
    preprocess = Preprocess(resolution=spec.resolution)
    return Setting(
        network=build(spec).to(memory_format=torch.channels_last).train(),
        recipe=recipe,
        labels=LABELS,
        preprocess=preprocess,
        batches=Batches(Pictures(), recipe, preprocess),
        device=torch.device("cpu"),
        dtype=dtype,
    )


def made(spec: ArchSpec, policy: ElasticPolicy, recipe: Recipe = RECIPE) -> tuple[Elastic, nn.Module]:
    setting = setting_of(spec, recipe)
    return Elastic(setting, policy), setting.network


def batch(count: int = 16, side: int = SIDE) -> Batch:
    torch.manual_seed(1)
    images = torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last)
    return Batch(images, Targets(torch.arange(count) % 3), np.arange(count), 1.0)


def alone(wide: nn.Module, spec: ArchSpec, alpha: float) -> nn.Module:
    """The narrow network as one of its own, with copies of the leading slices."""
    narrow = narrower(spec, alpha)
    own = build(narrow)
    tensors = tensors_of(wide)
    load_tensors(own, {name: tensors[name][place] for name, place in places_in(spec, narrow).items()})
    return own.to(memory_format=torch.channels_last).train()


def softened(own: Tensor, said: Tensor, temperature: float) -> Tensor:
    """T^2 KL(said, own) of softened logits, as a teacher's answers are learned."""
    hot, log = F.softmax(said.detach() / temperature, dim=1), F.log_softmax(own / temperature, dim=1)
    return temperature**2 * (hot * (hot.log() - log)).sum(dim=1).mean()


def test_a_step_gives_the_gradients_of_networks_run_by_themselves() -> None:
    spec, data = table(), batch()
    policy = ElasticPolicy(narrowest=0.5, between=0, largest=0.75, smallest=0.5, distil=0.25, temperature=2.0)
    objective, wide = made(spec, policy)
    first, second = objective.passes(5, count=16, done=1.0)
    narrow = alone(wide, spec, 0.5)
    logits = wide(data.images[first.images])
    loss = F.cross_entropy(logits, data.targets.classes[first.images])
    loss.backward()
    answers = narrow(data.images[second.images])
    labels = F.cross_entropy(answers, data.targets.classes[second.images])
    (0.75 * labels + 0.25 * softened(answers, logits[second.images], 2.0)).backward()
    wanted = {name: p.grad.clone() for name, p in wide.named_parameters()}
    places = places_in(spec, narrower(spec, 0.5))
    for name, p in narrow.named_parameters():
        wanted[name][places[name]] += p.grad
    wide.zero_grad(set_to_none=True)
    learned = objective.learn(data, step=5)
    torch.testing.assert_close(learned, loss.detach())
    for name, p in wide.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_at_first_only_the_widest_learns_and_from_all_images() -> None:
    data = replace(batch(), done=0.49)
    objective, wide = made(table(), ElasticPolicy(narrowest=0.25, between=2, largest=0.75))
    (only,) = objective.passes(3, count=16, done=data.done)
    assert (only.alpha, only.images) == (1.0, slice(0, 16))
    assert len(objective.passes(3, count=16, done=0.5)) == 4
    F.cross_entropy(wide(data.images), data.targets.classes).backward()
    wanted = {name: p.grad.clone() for name, p in wide.named_parameters()}
    wide.zero_grad(set_to_none=True)
    objective.learn(data, step=3)
    for name, p in wide.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name])


def test_the_best_weights_are_of_when_all_widths_have_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falls = iter(np.linspace(1, 0, 100).tolist())
    monkeypatch.setattr("mobilenets.tasks.classify.top_k_accuracy", lambda *_, **__: next(falls))
    monkeypatch.setattr("mobilenets.train.loop.EVAL_SHARE", 1e9)  # after every epoch of 3 steps
    run(tmp_path / "run")
    assert read_progress(tmp_path / "run" / "checkpoint.safetensors").best_step == 9
    run(tmp_path / "all", policy=ElasticPolicy(narrowest=0.25, resolutions=(12, 16), alone=0))
    assert read_progress(tmp_path / "all" / "checkpoint.safetensors").best_step == 3


def test_a_run_stopped_while_the_widest_was_alone_leaves_best_and_goes_on(
    tmp_path: Path, ctrl_c_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    with ctrl_c_at(3):
        first = run(tmp_path)
    assert not first.finished
    assert read_bundle(tmp_path / "best").digest == first.best.digest == first.last.digest
    resumed = run(tmp_path, resume="must")
    assert resumed.finished
    assert read_progress(tmp_path / "checkpoint.safetensors").best_step > 6
    assert read_bundle(tmp_path / "best").digest == resumed.best.digest
    assert (first.last.history[-1]["done"], resumed.last.history[-1]["done"]) == (0.25, 1)


@pytest.mark.parametrize("base", FAMILIES)
def test_a_narrow_pass_adds_gradients_to_exactly_the_leading_slices(base: str) -> None:
    spec = compose(base, alpha=0.5, resolution=32, classes=3)
    objective, wide = made(spec, ElasticPolicy(narrowest=0.25, widest=0.5, inner=(), between=0))
    torch.manual_seed(2)
    for p in wide.parameters():  # layer scales begin so small that gradients behind them vanish
        if p.ndim == 1:
            nn.init.uniform_(p, 0.5, 1.5)
    data = batch(4, side=32)
    torch.manual_seed(3)
    logits = wide(data.images[objective.passes(0, count=4, done=1.0)[0].images])
    F.cross_entropy(logits, data.targets.classes[: len(logits)]).backward()
    before = {name: p.grad for name, p in wide.named_parameters()}
    wide.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    objective.learn(data, step=0)
    places = places_in(spec, narrower(spec, 0.25))
    reached = []
    for name, p in wide.named_parameters():
        added = p.grad - before[name]
        reached.append(bool(added[places[name]].any()))
        added[places[name]] = 0
        assert not added.any(), name
    assert sum(reached) > 0.9 * len(reached)  # a channel that is dead at the start gives its weights none


def test_what_a_width_adds_gets_the_gradient_of_its_slice_and_is_part_of_its_answers() -> None:
    spec, data = table(), batch()
    objective, wide = made(spec, ElasticPolicy(narrowest=0.5, inner=(), between=0))
    objective.learn(data, step=0)
    added, places = objective.modules["0.5"], places_in(spec, narrower(spec, 0.5))
    shared = {name: p.grad.clone() for name, p in wide.named_parameters()}
    own = {name: p.grad.clone() for name, p in added.named_parameters()}
    wide.zero_grad(set_to_none=True)
    plain, again = made(spec, ElasticPolicy(narrowest=0.5, inner=(), between=0, own=False))
    assert plain.modules == {}
    plain.learn(data, step=0)
    for name, p in again.named_parameters():  # zeros so far: as if nothing were added
        torch.testing.assert_close(shared[name], p.grad)
    first = objective.passes(0, count=16, done=1.0)[0]
    F.cross_entropy(wide(data.images[first.images]), data.targets.classes[first.images], label_smoothing=0.0).backward()
    for name, p in wide.named_parameters():
        torch.testing.assert_close(shared[name][places[name]] - p.grad[places[name]], own[name], rtol=1e-4, atol=1e-6)
    wide.zero_grad(set_to_none=True)
    with torch.no_grad():  # what is taken from the slice and added again changes nothing for the narrow one
        for name, p in added.named_parameters():
            moved = torch.randn_like(p) * 0.1
            p.add_(moved)
            dict(wide.named_parameters())[name][places[name]] -= moved
    for p in added.parameters():
        p.grad = None
    narrow = alone(wide, spec, 0.5)
    with torch.no_grad():
        for name, p in narrow.named_parameters():
            p.add_(dict(added.named_parameters())[name])
    said = wide(data.images[first.images])
    second = objective.passes(0, count=16, done=1.0)[1]
    answers = narrow(data.images[second.images])
    labels = F.cross_entropy(answers, data.targets.classes[second.images])
    (0.1 * labels + 0.9 * softened(answers, said[second.images], 4.0)).backward()
    objective.learn(data, step=0)
    for name, p in narrow.named_parameters():
        torch.testing.assert_close(dict(added.named_parameters())[name].grad, p.grad, rtol=1e-3, atol=1e-5)


def test_only_the_widest_at_its_own_resolution_moves_the_statistics() -> None:
    policy = ElasticPolicy(narrowest=0.5, inner=(), resolutions=(12, 16), between=0)
    objective, wide = made(table(), policy)
    steps = {objective.passes(step, count=16, done=1.0)[0].resolution: step for step in range(20)}
    before = {name: b.clone() for name, b in wide.named_buffers()}
    objective.learn(batch(), step=steps[12])
    assert all(torch.equal(before[name], b) for name, b in wide.named_buffers())
    objective.learn(batch(), step=steps[16])
    assert not any(torch.equal(before[name], b) for name, b in wide.named_buffers())


def test_passes_are_the_same_whenever_they_are_asked_for_and_keep_the_policy() -> None:
    policy = ElasticPolicy(narrowest=0.25, resolutions=(8, 12, 16), between=2, largest=0.75, smallest=0.25, middle=0.5)
    objective, _ = made(table(), policy)
    again, _ = made(table(), policy)
    inner, sides = set(), set()
    for step in range(60):
        passes = objective.passes(step, count=16, done=1.0)
        assert passes == again.passes(step, count=16, done=1.0)
        assert (passes[0].alpha, passes[-1].alpha) == (1.0, 0.25)
        assert passes[1].alpha != passes[2].alpha
        assert [one.images.stop - one.images.start for one in passes] == [12, 6, 6, 3]
        assert passes[0].images == slice(0, 12)
        assert all(one.images.start >= 0 and one.images.stop <= 12 for one in passes)
        inner |= {one.alpha for one in passes[1:-1]}
        sides |= {one.resolution for one in passes}
    assert len(inner) > 3
    assert all(0.25 < alpha < 1.0 for alpha in inner)
    assert sides == {8, 12, 16}
    other, _ = made(table(), policy, recipe=Recipe(epochs=4.0, seed=1))
    assert [other.passes(s, count=16, done=1.0) for s in range(9)] != [
        objective.passes(s, count=16, done=1.0) for s in range(9)
    ]


def test_a_list_of_widths_draws_from_the_list_only() -> None:
    objective, _ = made(table(), ElasticPolicy(narrowest=0.25, inner=(0.5, 0.75)))
    assert {one.alpha for s in range(40) for one in objective.passes(s, count=16, done=1.0)[1:-1]} == {0.5, 0.75}


def test_each_inner_width_gets_as_much_computation() -> None:
    spec = table()
    objective, _ = made(spec, ElasticPolicy(narrowest=0.25, inner=(0.5, 0.75)))
    drawn = [objective.passes(step, count=16, done=1.0)[1].alpha for step in range(3000)]
    half, more = (drawn.count(alpha) * cost(narrower(spec, alpha)).mult_adds for alpha in (0.5, 0.75))
    assert half / more == pytest.approx(1, rel=0.15)  # 3,000 draws: 4 per cent is a standard deviation


def wise() -> Bundle:
    """A teacher for the three classes, in another order and with one more, at another resolution."""
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.1, resolution=SIDE + 4, stride="small", classes=4))
    return replace(bundle, labels=("c", "more", "a", "b"))


def pictures(count: int = 16) -> Batch:
    """The first training images, as the loop would hand them over."""
    source = Pictures()
    images = normalise(torch.from_numpy(source.uniform[:count].copy()), Preprocess(resolution=SIDE))
    return Batch(images, Targets(torch.from_numpy(source.targets[:count])), np.arange(count), 1.0)


STILL = Recipe(epochs=4.0, precision="fp32", label_smoothing=0.0, mirror=False, crop_padding=0.0)


@pytest.mark.parametrize("recipe", [RECIPE, STILL], ids=["asked each time", "answers kept"])
def test_a_teachers_answers_stand_beside_the_labels_for_every_width(recipe: Recipe) -> None:
    policy = ElasticPolicy(narrowest=0.5, between=0, resolutions=(12, 16), largest=0.75, smallest=0.5, distil=0.25)
    data, setting = pictures(), setting_of(table(), recipe)
    objective = Elastic(setting, policy, teacher=wise(), how=Distillation(temperature=3.0, weight=0.7))
    step = next(s for s in range(40) if [p.resolution for p in objective.passes(s, count=16, done=1.0)] == [16, 12])
    first, second = objective.passes(step, count=16, done=1.0)
    narrow = alone(setting.network, table(), 0.5)
    # With its own preprocessing, and at the resolution it has also for what the narrow network sees smaller.
    network = build(wise().spec).eval()
    load_tensors(network, wise().tensors)
    with torch.no_grad():
        pixels = torch.from_numpy(Pictures().uniform[:16].copy())
        larger = F.interpolate(
            normalise(pixels, wise().preprocess), (SIDE + 4, SIDE + 4), mode="bilinear", antialias=True
        )
        knows = network(larger)[:, [2, 3, 0]]

    def lesson(logits: Tensor, part: slice) -> Tensor:
        return 0.3 * F.cross_entropy(logits, data.targets.classes[part]) + 0.7 * softened(logits, knows[part], 3.0)

    logits = setting.network(data.images[first.images])
    lesson(logits, first.images).backward()
    small = F.interpolate(data.images[second.images], (12, 12), mode="bilinear", antialias=True)
    own = narrow(small)
    (0.75 * lesson(own, second.images) + 0.25 * softened(own, logits[second.images], 4.0)).backward()
    wanted = {name: p.grad.clone() for name, p in setting.network.named_parameters()}
    places = places_in(table(), narrower(table(), 0.5))
    for name, p in narrow.named_parameters():
        wanted[name][places[name]] += p.grad
    setting.network.zero_grad(set_to_none=True)
    objective.learn(data, step=step)
    for name, p in setting.network.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-3, atol=1e-5)


def test_a_teacher_of_other_classes_or_of_maps_is_refused() -> None:
    with pytest.raises(UsageError, match="no teacher for this data"):
        Elastic(setting_of(table()), ElasticPolicy(narrowest=0.25), teacher=replace(wise(), labels=tuple("abxy")))
    with pytest.raises(UsageError, match="maps are to be matched at 2 in an elastic training"):
        Elastic(setting_of(table()), ElasticPolicy(narrowest=0.25), teacher=wise(), how=Distillation(features=(2,)))


def run(
    out: Path,
    *,
    stop_at: int | None = None,
    resume: str = "never",
    policy: ElasticPolicy | None = None,
    teacher: Bundle | None = None,
    how: Distillation | None = None,
) -> Outcome:
    pictures, spec = Pictures(), table()
    make = elastic(policy or ElasticPolicy(narrowest=0.25, resolutions=(12, 16)), teacher=teacher, how=how)

    def stopping(setting: Setting) -> Elastic:
        objective = make(setting)
        learn = objective.learn

        def stopped(data: Batch, *, step: int) -> Tensor:
            if step == stop_at:
                raise KeyboardInterrupt
            return learn(data, step=step)

        objective.learn = stopped
        return objective

    return train(
        spec,
        pictures,
        EvalPixels(pictures.uniform[:12], pictures.targets[:12]),
        RECIPE,
        labels=LABELS,
        preprocess=Preprocess(resolution=SIDE),
        out=out,
        device="cpu",
        resume=resume,
        objective=stopping,
    )


RANGE = ElasticPolicy(narrowest=0.25, resolutions=(12, 16))
LIST = ElasticPolicy(narrowest=0.25, inner=(0.5, 0.75), resolutions=(12, 16), alone=0.25)


@pytest.mark.parametrize(
    ("policy", "teacher", "how"),
    [(RANGE, None, None), (LIST, None, None), (RANGE, wise(), None), (LIST, wise(), Distillation(embedding="cosine"))],
    ids=["a range", "a list", "with a teacher", "with its embedding"],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    policy: ElasticPolicy,
    teacher: Bundle | None,
    how: Distillation | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mobilenets.train.loop.CHECKPOINT_SECONDS", 0.0)
    whole = run(tmp_path / "whole", policy=policy, teacher=teacher, how=how)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", stop_at=7, policy=policy, teacher=teacher, how=how)
    rest = run(tmp_path / "part", resume="must", policy=policy, teacher=teacher, how=how)
    assert rest.last.digest == whole.last.digest
    assert sorted(rest.last.own) == ([] if policy is RANGE else ["0.25", "0.5", "0.75"])
    assert all(any(tensor.any() for tensor in added.values()) for added in rest.last.own.values())
    told = rest.last.history[-1]
    assert told["elastic"]["narrowest"] == 0.25
    assert told.get("teacher", {}).get("digest") == (None if teacher is None else teacher.digest)
    other = {"policy": policy, "teacher": None if teacher is not None else wise()}
    for changed in ({"policy": ElasticPolicy(narrowest=0.5, resolutions=(12, 16)), "teacher": teacher}, other):
        with pytest.raises(UsageError, match="not the same as then: the objective"):
            run(tmp_path / "part", resume="must", **changed)


def test_bf16_keeps_the_weights_and_their_gradients_in_float32() -> None:
    setting = setting_of(table(), dtype=torch.bfloat16)
    loss = Elastic(setting, ElasticPolicy(narrowest=0.25)).learn(batch(), step=0)
    assert loss.dtype == torch.float32
    for p in setting.network.parameters():
        assert p.grad is not None
        assert p.grad.dtype == torch.float32
        assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"narrowest": 1.0}, "narrowest"),
        ({"inner": (0.1,)}, "inner"),
        ({"resolutions": (0,)}, "resolutions"),
        ({"alone": 1.0}, "alone"),
        ({"between": -1}, "between"),
        ({"largest": 1.5}, "largest"),
        ({"smallest": 1.5}, "smallest"),
        ({"middle": 0.0}, "middle"),
        ({"distil": 2.0}, "distil"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_a_policy_that_cannot_be_names_its_field(fields: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        ElasticPolicy(**{"narrowest": 0.25, **fields})
    with pytest.raises(RecipeError, match=told):
        with_policy(ElasticPolicy(narrowest=0.25), fields)


def test_a_policys_fields_may_be_set_as_text() -> None:
    policy = with_policy(ElasticPolicy(narrowest=0.25), {"largest": "0.8", "between": "2"})
    assert (policy.largest, policy.between, policy.narrowest) == (0.8, 2, 0.25)
    with pytest.raises(RecipeError, match="larg"):
        with_policy(policy, {"larg": "1"})


def test_networks_that_do_not_fit_the_policy_are_refused() -> None:
    with pytest.raises(UsageError, match=r"has width 1, and the policy's widest is 0\.75"):
        made(table(), ElasticPolicy(narrowest=0.25, widest=0.75))
    with pytest.raises(UsageError, match="trained at 16 pixels, and the largest resolution is 12"):
        made(table(), ElasticPolicy(narrowest=0.25, resolutions=(8, 12)))


def test_a_table_whose_widths_do_not_nest_is_refused_before_the_first_step() -> None:
    odd = ArchSpec(**{**{f: getattr(table(), f) for f in ArchSpec.__struct_fields__}, "rows": (ConvRow(out=10),)})
    with pytest.raises(SpecError, match="widths that nest"):
        made(odd, ElasticPolicy(narrowest=0.25, inner=(0.95,)))


def test_frozen_weights_are_refused() -> None:
    setting = setting_of(table())
    setting.network.rows[0].requires_grad_(False)
    with pytest.raises(UsageError, match="is frozen, and 2 more"):
        Elastic(setting, ElasticPolicy(narrowest=0.25))


def test_an_elastic_training_draws_its_own_resolutions() -> None:
    recipe = msgspec.structs.replace(RECIPE, small_side=0.75)
    with pytest.raises(RecipeError, match=r"small_side = 0\.75 in an elastic training"):
        made(table(), ElasticPolicy(narrowest=0.5), recipe)
