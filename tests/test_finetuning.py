"""Training that starts from weights there are: a run's, an exported one's, diffusers'; low-rank parts; export."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

import jdiff
from jdiff.common.errors import UserError
from jdiff.networks import lora
from tests.conftest import TINY, config, run_command

pytestmark = pytest.mark.usefixtures("compile_fast")

# Trains nothing: the weights afterwards are those that it started with.
STILL = ("--config.train.learning_rate=0", "--config.train.steps=1")


def weights(workdir):
    params = jdiff.load(workdir).params["network"]
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}


def train(*arguments, cwd, workdir="run"):
    result = run_command(*arguments, *TINY, f"--workdir={workdir}", cwd=cwd)
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


def test_other_classes_and_another_size(tiny_run, three_classes, tmp_path):
    """All weights come along but the classes' vectors, which are new, and named."""
    data = ("--config.data.image_size=16", "--config.data.channels=1", "--config.model.sigma_data=0.75")
    run, result = train(
        config("folder"),
        f"--config.data.dir={three_classes}",
        f"--config.train.initial={tiny_run.workdir}",
        *data,
        *STILL,
        cwd=tmp_path,
    )
    assert "conditioner/embedders_label/table [4, 32] is new (of other classes)" in result.out
    before, after = weights(tiny_run.workdir), weights(run)
    table = "conditioner/embedders_label/table"
    assert after.pop(table).shape == (4, 32)
    assert before.pop(table).shape == (11, 32)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    assert jdiff.load(run).sample(2, labels=["a", "c"]).shape == (2, 16, 16, 1)


def test_the_network_is_taken_from_the_weights(tiny_run, tmp_path):
    """What the config says of the network does not count; a run of another prediction is refused."""
    wide = (config("digits"), f"--config.train.initial={tiny_run.workdir}", *STILL)
    result = run_command(*wide, *TINY, "--config.network.channels=24", "--workdir=a", cwd=tmp_path)
    assert result.status == 0, result.err
    assert weights(tmp_path / "a")["first/kernel"].shape[-1] == 8
    result = run_command(*wide, *TINY, "--config.model.prediction=v", "--workdir=b", cwd=tmp_path)
    assert result.status == 1
    assert "model.prediction is 'edm' in train.initial=" in result.err
    assert result.err.count("\n") == 1


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


def test_low_rank_training_resumes_to_the_bit(tiny_run, lora_run, tmp_path):
    arguments = (config("digits"), f"--config.train.initial={tiny_run.workdir}", "--config.lora.rank=2")
    arguments += ("--config.train.learning_rate=0.05",)
    train(*arguments, "--config.train.steps=3", cwd=tmp_path)
    run, _ = train(*arguments, "--config.train.steps=6", cwd=tmp_path)
    whole, resumed = weights(lora_run), weights(run)
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


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


def test_an_exported_run_samples_the_same_and_can_be_started_from(lora_run, tmp_path):
    """Low-rank parts merged; nothing but the folder is needed."""
    result = run_command("--mode=export", f"--workdir={lora_run}", "--out=out", cwd=tmp_path)
    assert result.status == 0, result.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "weights.safetensors"]
    again, run = jdiff.load(tmp_path / "out"), jdiff.load(lora_run)
    assert again.step == run.step == 6
    np.testing.assert_array_equal(again.sample(4), run.sample(4))
    started, _ = train(config("digits"), "--config.train.initial=out", *STILL, cwd=tmp_path, workdir="next")
    jax.tree.map(np.testing.assert_array_equal, weights(started), weights(lora_run))


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
    eps = ("linear", "eps", "steps")
    names = ("model.schedule", "model.prediction", "objective.draw")
    options = [f"--config.{name}={value}" for name, value in zip(names, eps, strict=True)]
    run, _ = train(
        config("digits"),
        "--config.train.initial=theirs",
        "--config.model.conditions=()",
        *options,
        *STILL,
        cwd=tmp_path,
    )
    model = jdiff.load(run)
    x, t = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32), np.array([3.0, 500, 999], np.float32)
    out = model.task.network.apply({"params": model.params["network"]}, x, t, {})
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
        (["--config.train.initial=nowhere"], "train.initial='nowhere' holds no config.json"),
        (["--config.lora.rank=4"], "lora.rank=4 needs weights to stand beside: set train.initial"),
        (["--config.train.initial=other"], "describes the class 'Kandinsky3UNet', which is not known here"),
    ],
)
def test_wrong_beginnings(arguments, message, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"_class_name": "Kandinsky3UNet"}))
    result = run_command(config("digits"), *arguments, *TINY, "--config.train.steps=1", "--workdir=run", cwd=tmp_path)
    assert result.status == 1
    assert message in result.err
    assert result.err.count("\n") == 1


def test_weights_of_another_network(tiny_run, tmp_path):
    """Colour images do not fit weights of grey ones."""
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    arguments = (config("folder"), f"--config.data.dir={tmp_path}", "--config.data.image_size=8")
    arguments += (f"--config.train.initial={tiny_run.workdir}", "--config.model.sigma_data=0.75")
    result = run_command(*arguments, *TINY, "--config.train.steps=1", "--workdir=run", cwd=tmp_path)
    assert result.status == 1
    assert "first/kernel is [3, 3, 3, 8] here and [3, 3, 1, 8] there" in result.err
