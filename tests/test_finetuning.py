"""Training that starts from weights there are: a run's, an exported one's, diffusers'; low-rank parts; export."""

import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

import jdiff
import jdiff.config
from jdiff.common.errors import UserError
from jdiff.networks import lora
from jdiff.weights.read import Pretrained, overlaid
from jdiff.weights.start import pretrained_tokenizer
from tests.conftest import TINY, config, refusal, run_here

# Trains nothing: the weights afterwards are those that it started with.
STILL = ("--config.train.learning_rate=0", "--config.train.steps=1")


def weights(workdir):
    params = jdiff.load(workdir).params["network"]
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}


def train(*arguments, cwd, workdir="run"):
    result = run_here(*arguments, *TINY, f"--workdir={workdir}", cwd=cwd)
    assert result.status == 0, result.err
    return cwd / workdir, result


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """A folder of grey images of 12x16 in three classes."""
    folder = tmp_path_factory.mktemp("classes")
    for number in range(36):
        (folder / "abc"[number % 3]).mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "abc"[number % 3] / f"{number}.png")
    return folder


@pytest.mark.slow  # CI has weights of other networks and low-rank parts
def test_other_classes_and_another_size(tiny_run, three_classes, tmp_path):
    """All weights come along but the classes' vectors, which are new, and named; the null's is kept."""
    data = ("--config.data.image_size=16", "--config.data.channels=1", "--config.model.sigma_data=0.75")
    run, result = train(
        config("folder"),
        f"--config.data.dir={three_classes}",
        f"--config.train.initial={tiny_run.workdir}",
        *data,
        *STILL,
        cwd=tmp_path,
    )
    assert "conditioner/embedders_label/table: 3 of 3 classes are new" in result.out
    before, after = weights(tiny_run.workdir), weights(run)
    table = "conditioner/embedders_label/table"
    theirs, ours = before.pop(table), after.pop(table)
    assert (theirs.shape, ours.shape) == ((11, 32), (4, 32))
    np.testing.assert_array_equal(ours[3], theirs[10])
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    assert jdiff.load(run).sample(2, labels=["a", "c"]).shape == (2, 16, 16, 1)


@pytest.mark.slow  # likewise
def test_the_network_is_taken_from_the_weights(tiny_run, tmp_path):
    """What the config says of the network does not count; a run of another prediction is refused."""
    wide = (config("digits"), f"--config.train.initial={tiny_run.workdir}", *STILL)
    result = run_here(*wide, *TINY, "--config.network.channels=24", "--workdir=a", cwd=tmp_path)
    assert result.status == 0, result.err
    assert weights(tmp_path / "a")["first/kernel"].shape[-1] == 8
    line = refusal(*wide, *TINY, "--config.model.prediction=v", "--workdir=b", cwd=tmp_path)
    assert "model.prediction is 'edm' in train.initial=" in line


@pytest.fixture(scope="module")
def lora_run(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    arguments = (config("digits"), f"--config.train.initial={tiny_run.workdir}", "--config.lora.rank=2")
    run, _ = train(*arguments, "--config.train.steps=6", "--config.train.learning_rate=0.05", cwd=folder)
    return run


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_low_rank_parts_alone_are_trained_and_saved(tiny_run, lora_run):
    before, after = weights(tiny_run.workdir), weights(lora_run)
    changed = {name for name in before if np.abs(before[name] - after[name]).max() > 0}
    kernels = {"/".join(path) for path in lora.adapted(jdiff.load(tiny_run.workdir).params["network"], lora.LAYERS)}
    assert kernels
    assert changed - {"conditioner/embedders_label/table"} == kernels
    for name in kernels:
        change = (after[name] - before[name]).reshape(-1, after[name].shape[-1])
        assert np.linalg.matrix_rank(change, tol=1e-4 * np.linalg.norm(change)) <= 2
    steps = [run / "checkpoints" / step / "weights" for run, step in ((tiny_run.workdir, "10"), (lora_run, "6"))]
    assert size(steps[1]) < 0.7 * size(steps[0])


@pytest.mark.slow
def test_low_rank_training_resumes_to_the_bit(tiny_run, lora_run, tmp_path):
    arguments = (config("digits"), f"--config.train.initial={tiny_run.workdir}", "--config.lora.rank=2")
    arguments += ("--config.train.learning_rate=0.05",)
    train(*arguments, "--config.train.steps=3", cwd=tmp_path)
    run, _ = train(*arguments, "--config.train.steps=6", cwd=tmp_path)
    whole, resumed = weights(lora_run), weights(run)
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


@pytest.mark.slow  # test_low_rank_training_resumes_to_the_bit stands in CI
def test_low_rank_parts_stand_on_the_step_they_began_at(tiny_run, tmp_path):
    """Whatever becomes of that run; and wherever it is loaded from."""
    base = shutil.copytree(tiny_run.workdir, tmp_path / "base")
    arguments = (config("digits"), "--config.train.initial=base", "--config.lora.rank=2", "--config.train.steps=2")
    run, _ = train(*arguments, cwd=tmp_path)
    settings = json.loads((run / "config.json").read_text())["train"]
    assert (settings["initial"], settings["initial_checkpoint"]) == (str(base), "10")
    before = weights(run)
    train(config("digits"), "--config.train.steps=12", cwd=tmp_path, workdir="base")
    jax.tree.map(np.testing.assert_array_equal, weights(run), before)

    shutil.rmtree(base / "checkpoints" / "10")
    with pytest.raises(UserError, match=r"10.*12"):
        jdiff.load(run)


def pretrained(params, **changed):
    """Weights of a run with these keys, and the keys as they are by default."""
    ours = jdiff.config.defaults()
    theirs = ours.copy_and_resolve_references()
    for settings in (ours, theirs):
        settings.model.conditions = ("label", "text", "scalars")
        settings.condition.scalars.names = ("age",)
    for name, value in changed.items():
        group, _, key = name.rpartition("__")
        functools.reduce(lambda part, field: part[field], group.split("__"), theirs)[key] = value
    return Pretrained(Path("there"), {}, flatten_dict(params), theirs, 5), ours


def test_classes_of_the_same_name_keep_their_vectors():
    theirs = {"conditioner": {"embedders_label": {"table": np.arange(8.0).reshape(4, 2)}}, "first": np.ones(3)}
    start, settings = pretrained(theirs, data__class_names=("a", "b", "c"))
    settings.data.class_names = ("new", "c", "a")
    params = {"conditioner": {"embedders_label": {"table": np.full((4, 2), -1.0)}}, "first": np.zeros(3)}
    made, notes = overlaid(jax.tree.map(jnp.asarray, params), start, settings)
    np.testing.assert_array_equal(made["conditioner"]["embedders_label"]["table"], [[-1, -1], [4, 5], [0, 1], [6, 7]])
    np.testing.assert_array_equal(made["first"], 1)
    assert notes == ["conditioner/embedders_label/table: 1 of 3 classes are new"]


def test_labels_that_are_new_altogether_say_nothing_at_first():
    start, settings = pretrained({"first": np.ones(3)})
    settings.data.class_names = ("a", "b")
    params = {"conditioner": {"embedders_label": {"table": jnp.ones((3, 2))}}, "first": jnp.zeros(3)}
    made, notes = overlaid(params, start, settings)
    np.testing.assert_array_equal(made["conditioner"]["embedders_label"]["table"], 0)
    assert notes == ["conditioner/embedders_label/table: all 2 classes are new"]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("text", "heads", 2), ("text", "vocabulary", 512), ("text", "path", "elsewhere"), ("scalars", "names", ("size",))],
)
def test_an_embedder_of_something_else_is_new(name, key, value):
    """Though its arrays have the same shapes; how often and how long texts are cut does not count."""
    made = {}
    for there, fields in (("other", {key: value}), ("same", {"drop_rate": 0.3})):
        changed = {f"condition__{name}__{field}": value for field, value in fields.items()}
        start, settings = pretrained({"conditioner": {f"embedders_{name}": {"dense": np.ones(3)}}}, **changed)
        made[there] = overlaid({"conditioner": {f"embedders_{name}": {"dense": jnp.zeros(3)}}}, start, settings)
    path = f"conditioner/embedders_{name}/dense"
    assert made["other"][1] == [f"{path} [3] is new (condition.{name}.{key} is {value!r} there)"]
    assert made["same"][1] == []
    values = [made[there][0]["conditioner"][f"embedders_{name}"]["dense"] for there in ("other", "same")]
    np.testing.assert_array_equal(values, [np.zeros(3), np.ones(3)])


def test_texts_are_read_by_the_tokenizer_that_the_weights_know(tmp_path):
    start, settings = pretrained({})
    (tmp_path / "config.json").write_text(jdiff.config.to_json(start.config))
    settings.train.initial = str(tmp_path)
    assert pretrained_tokenizer(settings) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert pretrained_tokenizer(settings) == tmp_path / "tokenizer.json"
    settings.condition.text.vocabulary = 300
    assert pretrained_tokenizer(settings) is None


def test_parts_of_rank_r_reach_any_change_of_rank_r():
    """W' = W + (alpha / r) A B, for a linear layer and a convolution."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {
        "x": {"q": {"kernel": draw(6, 4), "bias": np.zeros(4, np.float32)}},
        "c": {"kernel": draw(3, 3, 2, 5)},
        "d": {"kernel": draw(6, 4)},
    }
    parts = lora.init(jax.random.key(0), params, rank=3, layers=lora.LAYERS)
    assert set(flatten_dict(parts)) == {
        ("x", "q", "kernel", "a"),
        ("x", "q", "kernel", "b"),
        ("c", "kernel", "a"),
        ("c", "kernel", "b"),
    }
    same = lora.merged(params, parts, alpha=6.0)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    parts = jax.tree.map(lambda leaf: draw(*leaf.shape), parts)
    made = lora.merged(params, parts, alpha=6.0)
    change = 2.0 * parts["c"]["kernel"]["a"] @ parts["c"]["kernel"]["b"]
    np.testing.assert_allclose(
        made["c"]["kernel"], params["c"]["kernel"] + change.reshape(3, 3, 2, 5), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(made["d"]["kernel"], params["d"]["kernel"])
    assert "c" not in lora.init(jax.random.key(0), params, rank=3, layers=("attention",))


@pytest.mark.slow
def test_an_exported_run_samples_the_same_and_can_be_started_from(lora_run, tmp_path):
    """Low-rank parts merged; nothing but the folder is needed."""
    result = run_here("--mode=export", f"--workdir={lora_run}", "--out=out", cwd=tmp_path)
    assert result.status == 0, result.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "history.txt",
        "weights.safetensors",
    ]
    again, run = jdiff.load(tmp_path / "out"), jdiff.load(lora_run)
    assert again.step == run.step == 6
    np.testing.assert_array_equal(again.sample(4), run.sample(4))
    started, _ = train(config("digits"), "--config.train.initial=out", *STILL, cwd=tmp_path, workdir="next")
    jax.tree.map(np.testing.assert_array_equal, weights(started), weights(lora_run))


def test_runs_and_exported_weights_do_not_mix(tiny_run, lora_run, tmp_path):
    with pytest.raises(UserError, match="holds a run"):
        jdiff.load(lora_run).export(tiny_run.workdir)
    jdiff.load(tiny_run.workdir).export(tmp_path)
    line = refusal(config("digits"), *TINY, "--config.train.steps=1", f"--workdir={tmp_path}", cwd=tmp_path)
    assert f"train in another folder, with train.initial={tmp_path}" in line


def test_an_exported_folder_that_lacks_something(tiny_run, tmp_path):
    from safetensors.numpy import load_file, save_file

    jdiff.load(tiny_run.workdir).export(tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    name, tensor = next(iter(tensors.items()))

    def refused(**changed):
        save_file(
            {**{key: value for key, value in tensors.items() if key != name}, **changed},
            tmp_path / "weights.safetensors",
        )
        with pytest.raises(UserError) as error:
            jdiff.load(tmp_path)
        return str(error.value)

    assert f"{name} is not there" in refused()
    assert f"{name} is [7]" in refused(**{name: np.zeros(7, np.float32)})
    assert "extra" in refused(**{name: tensor, "extra": np.zeros(1, np.float32)})


@pytest.mark.slow
def test_from_diffusers_and_back(tmp_path):
    """A UNet2DModel's folder -> a run that goes on from it -> its folder again."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        freq_shift=1,
        flip_sin_to_cos=False,
    )
    theirs.save_pretrained(tmp_path / "theirs")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "theirs")
    eps = ("linear", "eps", "steps")
    names = ("model.schedule", "model.prediction", "objective.draw")
    options = [f"--config.{name}={value}" for name, value in zip(names, eps, strict=True)]
    run, result = train(
        config("digits"),
        "--config.train.initial=theirs",
        "--config.model.conditions=()",
        *options,
        *STILL,
        cwd=tmp_path,
    )
    assert "was trained for model.schedule='linear' and model.prediction='eps', says " in result.out
    model = jdiff.load(run)
    x, t = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32), np.array([3.0, 500, 999], np.float32)
    out = model.task.network.apply({"params": model.params["network"]}, jnp.asarray(x), jnp.asarray(t), {})
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t)).sample.detach().numpy()
    np.testing.assert_allclose(out, expected.transpose(0, 2, 3, 1), atol=1e-4 * np.abs(expected).max())

    model.export(tmp_path / "back", like=tmp_path / "theirs")
    files = [tmp_path / folder / "diffusion_pytorch_model.safetensors" for folder in ("theirs", "back")]
    from safetensors.numpy import load_file

    before, after = map(load_file, files)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.initial=nowhere"], "nowhere' holds no config.json"),
        (["--config.lora.rank=4"], "lora.rank=4 needs weights to stand beside: set train.initial"),
        (["--config.train.initial=other"], "describes the class 'Kandinsky3UNet', which is not known here"),
    ],
)
def test_wrong_beginnings(arguments, message, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"_class_name": "Kandinsky3UNet"}))
    line = refusal(config("digits"), *arguments, *TINY, "--config.train.steps=1", "--workdir=run", cwd=tmp_path)
    assert message in line


def test_weights_of_another_network(tiny_run, tmp_path):
    """Colour images do not fit weights of grey ones."""
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    arguments = (config("folder"), f"--config.data.dir={tmp_path}", "--config.data.image_size=8")
    arguments += (f"--config.train.initial={tiny_run.workdir}", "--config.model.sigma_data=0.75")
    line = refusal(*arguments, *TINY, "--config.train.steps=1", "--workdir=run", cwd=tmp_path)
    assert "first/kernel is [3, 3, 3, 8] here and [3, 3, 1, 8] there" in line
