"""A message that gives advice is a promise: the keys, modes and extras that messages name exist, and what they tell the
user to set is set here and works.
"""

import ast
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.main import MODES
from jdiff.resolve import resolve
from tests.conftest import REPOSITORY
from tests.test_any_config import traced

GROUPS = "data|model|condition|network|objective|flow_map|train|lora|sample|guidance|tune|log|checkpoint|machine"
KEY = re.compile(rf"\b({GROUPS})(\.[a-z_][a-z_0-9]*)+(?![a-z_0-9]*[{{(/])")
NO_KEYS = {
    "train.npz",
    "train.npy",
    "train.txt",
    "data.set",
    "data.pkl",
    "config.json",
    "metadata.jsonl",
    "metadata.csv",
}
SETS = re.compile(rf"\b(?:set|try|use|give|leave|lower|raise|change|needs|is one of)[^;]*?\b(?:{GROUPS})\.[a-z_.]+")


def words_of(node):
    """A string as written, with {} for what is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(words_of(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{words_of(node.body)} {words_of(node.orelse)}"
    return "{}"


def messages():
    """Every text that an error, a note or a finding is made of."""
    for file in sorted((REPOSITORY / "jdiff").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                yield file.relative_to(REPOSITORY), words_of(node.exc.args[0])
            elif (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("UserError", "say", "warn")
                and node.args
            ):
                yield file.relative_to(REPOSITORY), words_of(node.args[0])


MESSAGES = list(messages())


def test_keys_that_messages_name_exist():
    known = set(jdiff.config.settings())
    named = [(file, match[0]) for file, text in MESSAGES for match in KEY.finditer(text) if match[0] not in NO_KEYS]
    assert len(named) > 60
    known |= {key.rpartition(".")[0] for key in known}  # a group as a whole
    wrong = [(str(file), key) for file, key in named if key not in known]
    assert not wrong


def test_modes_flags_and_extras_that_messages_name_exist():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = [
        name
        for file in (REPOSITORY / "jdiff").rglob("*.py")
        for name in re.findall(r"install\(['\"](\w+)", file.read_text())
    ]
    assert installs
    assert set(installs) <= set(extras)
    for _, text in MESSAGES:
        assert set(re.findall(r"--mode=(\w+)", text)) <= set(MODES)
        assert set(re.findall(r"--(\w+)=", text)) <= {"config", "workdir", "mode", "out", "debug"}


# (what is asked for, what the line says, what it tells the user to change): by the config alone.
FOLLOWED = [
    (["network.attention=cross"], "use self or transformer", ["network.attention=self"]),
    (["network.attention=cross"], "use self or transformer", ["network.attention=transformer"]),
    (
        ["model.conditions=('label','image')", "condition.image.into=cross_attention"],
        "set network.attention to cross or transformer, and network.attention_levels",
        ["network.attention=cross", "network.attention_levels=(0,)"],
    ),
    (
        ["network.name=dit", "network.embedder=per_block", "model.conditions=('label','image')"],
        "set network.embedder='shared'",
        ["network.embedder=shared"],
    ),
    (
        ["network.attention_heads=5", "network.attention_levels=(0,)"],
        "change data.image_size",
        ["network.attention_heads=4"],
    ),
    (["network.name=dit", "network.patch_size=3"], "network.patch_size", ["network.patch_size=2"]),
    (["network.attention_levels=(2,)"], "must lie in 0..0", ["network.attention_levels=(0,)"]),
    (["network.channels=9"], "must be even", ["network.channels=8"]),
    (["train.batch_size=10", "train.accumulate=4"], "does not divide by train.accumulate=4", ["train.batch_size=12"]),
    (["train.steps=0"], "train.steps, train.epochs and train.images", ["train.epochs=1"]),
    (["train.schedule=inverse_sqrt", "train.warmup_images=0"], "set train.decay_images", ["train.decay_images=100"]),
    (["lora.rank=2", "objective.uncertainty=true"], "with lora.rank set it to False", None),
    (["lora.rank=2"], "set train.initial", None),
    (
        ["model.zero_terminal_snr=true"],
        "needs a table (linear, scaled_linear",
        ["model.schedule=linear", "model.prediction=v"],
    ),
    (
        ["model.schedule=linear", "model.prediction=v", "model.zero_terminal_snr=true", "model.schedule_steps=1"],
        "needs model.schedule_steps of at least 2",
        ["model.schedule_steps=4"],
    ),
    (["objective.draw=steps"], "needs a table", ["model.schedule=linear", "model.prediction=eps"]),
    (
        ["model.schedule=linear", "model.prediction=eps", "model.learned_variance=true"],
        "set objective.draw='steps'",
        ["objective.draw=steps"],
    ),
    (["sample.sampler=flow_map"], "take sample.sampler=ddim", ["sample.sampler=ddim"]),
    (["task=flow_map"], "set sample.sampler=consistency", ["sample.sampler=consistency"]),
    (
        ["task=flow_map", "sample.sampler=consistency", "flow_map.scales=(1.0,3.0)"],
        "set flow_map.instants=0.25",
        ["flow_map.instants=0.25"],
    ),
    (
        ["task=flow_map", "flow_map.loss=mean_flow", "flow_map.instants=0.0"],
        "set sample.sampler=flow_map",
        ["sample.sampler=flow_map"],
    ),
    (
        ["task=flow_map", "flow_map.loss=mean_flow", "flow_map.scales=(2.0,4.0)"],
        "set guidance.method=trained_in and sample.guidance_scale=2",
        ["guidance.method=trained_in", "sample.guidance_scale=2.0"],
    ),
    (
        ["task=flow_map", "flow_map.loss=shortcut", "flow_map.instants=0.0"],
        "or set it above 0",
        ["flow_map.instants=0.5"],
    ),
    (["sample.variance=learned", "sample.sampler=ddpm"], "use small or large", ["sample.variance=large"]),
    (["sample.ladder=trailing"], "use karras", ["sample.ladder=karras"]),
    (["sample.sigma_max=0.001"], "sample.sigma_max=0.001, must rise", ["sample.sigma_max=10.0"]),
    (["sample.sigma_max=100.0"], "lower sample.sigma_max", ["sample.sigma_max=80.0"]),
    (
        ["sample.sigma_min=10.0", "sample.sigma_max=10.00001", "sample.steps=1000"],
        "take fewer sample.steps, or sigmas further apart",
        ["sample.sigma_max=20.0"],
    ),
    (["sample.sampler=huen"], "did you mean 'heun'?", ["sample.sampler=heun"]),
    (
        ["guidance.method=cfg_plus_plus", "sample.sampler=ddim", "sample.guidance_scale=3.0"],
        "must lie in [0, 1]",
        ["sample.guidance_scale=0.5"],
    ),
    (
        ["guidance.method=cfg_plus_plus", "sample.guidance_scale=0.5", "sample.sampler=heun"],
        "goes with the samplers ddpm",
        ["sample.sampler=ddim"],
    ),
    (
        ["guidance.sigma_low=5.0", "guidance.sigma_high=2.0"],
        "must be below guidance.sigma_high=2.0",
        ["guidance.sigma_high=9.0"],
    ),
    (["condition.text.width=18"], "does not divide by condition.text.heads=4", ["condition.text.heads=3"]),
    (
        ["model.conditions=('image',)", "condition.image.view=canny", "data.target=image", "condition.image.of=mask"],
        "condition.image.of='mask': these data have image",
        ["condition.image.of=image", "condition.image.view=thumbnail"],
    ),
    (
        ["model.conditions=('scalars',)", "condition.scalars.names=('year',)"],
        "has age",
        ["condition.scalars.names=('age',)", "condition.scalars.mean=(1.0,)", "condition.scalars.std=(1.0,)"],
    ),
    (
        ["model.schedule=linear", "model.prediction=eps", "model.zero_terminal_snr=true"],
        "model.zero_terminal_snr=False",
        ["model.zero_terminal_snr=False"],
    ),
    (["data.channels=2"], "leave it at 0", ["data.channels=0"]),
    (["data.image_size=8", "data.buckets=4", "data.resize=random_crop"], "set data.resize=adm", ["data.resize=adm"]),
    (
        ["data.image_size=8", "data.buckets=4", "data.quarter_turns=true"],
        "set it to False",
        ["data.quarter_turns=false"],
    ),
    (["data.buckets=4"], "as in data.image_size=64", ["data.image_size=64"]),
    (["model.conditions=('aspect',)"], "set data.buckets=8", ["data.buckets=8", "data.image_size=8"]),
    (["data.balance_power=0.5"], "set data.balance=class", ["data.balance=class"]),
    (
        ["task=autoencoder", "train.trajectory_every=0", "model.space=latents"],
        "set model.space='pixels'",
        ["model.space=pixels"],
    ),
]


@pytest.mark.parametrize(("asked", "says", "advised"), FOLLOWED, ids=lambda value: str(value)[:60])
def test_what_a_line_tells_to_set_is_taken(asked, says, advised):
    arguments = [f"--config.{change}" for change in asked]
    with pytest.raises(UserError) as error:
        traced(arguments)
    assert says in " ".join(str(error.value).split())
    if advised is not None:  # else the weights of another run: tests/test_finetuning.py
        traced([*arguments, *(f"--config.{change}" for change in advised)])


def resolved(*changes):
    config = jdiff.config.override(jdiff.config.load("folder"), [f"--config.{change}" for change in changes])
    source, _ = from_config.sources(config)
    return resolve(config, source)


def picture(path, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).convert(mode).save(path)


def torn(folder):
    picture(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])


def loose_and_nested(folder):
    picture(folder / "a.png")
    picture(folder / "cats" / "b.png")


def many_sizes(folder):
    picture(folder / "a.png")
    picture(folder / "b.png", (9, 12))


def captioned_without_some(folder):
    picture(folder / "a.png")
    picture(folder / "b.png")
    (folder / "metadata.csv").write_text("file_name,text\na.png,a cat\n")


def words(folder):
    for i in range(8):
        picture(folder / f"{'cat' if i % 2 else 'dog'}_{i}.png")


def images_of_splits(folder):
    for name in ("trainA", "trainB", "testA", "testB"):
        picture(folder / name / "a.png")


def shards(folder):
    for k in range(2):
        for i in range(3):
            picture(folder / f"{1000 * k:05d}" / f"{1000 * k + i:05d}.png")


def numbered_on(folder):
    for k in range(2):
        for i in range(3):
            picture(folder / str(k) / f"{3 * k + i}.png")


def paged(folder):
    picture(folder / "b.png")
    Image.new("RGB", (8, 8)).save(folder / "a.tif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])


def deep(folder):
    folder.mkdir()
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(folder / "a.png")


def images_and_masks(folder):
    for name in ("images", "masks"):
        for i in range(3):
            picture(folder / name / f"{i}.png")


def splits_and_more(folder):
    for name in ("train", "test", "more"):
        picture(folder / name / "a.png")


def nothing(folder):
    folder.mkdir()


# (a folder, keys, what the line says, how the user follows it: on the folder, by keys)
FOLDERS = [
    (torn, ["data.image_size=8"], "set data.on_bad_file=skip", None, ["data.on_bad_file=skip"]),
    (torn, ["data.image_size=8"], "mend or remove it", lambda folder: (folder / "b.png").unlink(), []),
    (
        captioned_without_some,
        ["data.image_size=8"],
        "set data.on_bad_file=skip",
        None,
        ["data.on_bad_file=skip"],
    ),
    (
        loose_and_nested,
        ["data.image_size=8"],
        "all into one folder",
        lambda folder: (folder / "cats" / "b.png").rename(folder / "b.png"),
        [],
    ),
    (loose_and_nested, ["data.image_size=8"], "set data.labels=none", None, ["data.labels=none"]),
    (
        loose_and_nested,
        ["data.image_size=8"],
        "put each into the sub-folder of its class",
        lambda folder: (folder / "a.png").rename(folder / "cats" / "a.png"),
        [],
    ),
    (many_sizes, ["data.image_size=0"], "give one with --config.data.image_size=64", None, ["data.image_size=64"]),
    (nothing, ["data.image_size=8"], "it must hold files such as .png", lambda folder: picture(folder / "a.png"), []),
    (
        many_sizes,
        ["data.image_size=8", "model.conditions=('text',)"],
        "a folder has them in metadata.jsonl or metadata.csv (file_name, text)",
        lambda folder: (folder / "metadata.csv").write_text("file_name,text\na.png,a cat\nb.png,a dog\n"),
        [],
    ),
    (many_sizes, ["data.image_size=8", "data.bits=16", "data.channels=4"], "grey (1)", None, ["data.channels=1"]),
    (
        words,
        ["data.image_size=8", "data.splits=('training',)"],
        "has no folder 'training' with images; it has none",
        None,
        ["data.splits=()"],
    ),
    (
        images_of_splits,
        ["data.image_size=8"],
        "data.splits=('trainA','testA') chooses",
        None,
        ["data.splits=('trainA','testA')"],
    ),
    (images_of_splits, ["data.image_size=8"], "data.labels=folders takes them", None, ["data.labels=folders"]),
    (
        words,
        ["data.image_size=8", "data.name=arrays", "data.label_pattern=(a)"],
        "it is for folder",
        None,
        ["data.name=folder", "data.label_pattern=([a-z]+)"],
    ),
]


@pytest.mark.parametrize(
    ("make", "asked", "says", "mend", "advised"), FOLDERS, ids=lambda value: getattr(value, "__name__", str(value))[:40]
)
def test_what_a_line_tells_about_a_folder_helps(make, asked, says, mend, advised, tmp_path):
    folder = tmp_path / "images"
    make(folder)
    asked = [f"data.dir={folder}", *asked]
    with pytest.raises(UserError) as error:
        resolved(*asked)
    assert says in " ".join(str(error.value).split())
    if mend:
        mend(folder)
    assert resolved(*asked, *advised).data.num_images >= 1


# (a folder, what a note says, the keys that it names): a note is gone, or says otherwise, once these are set.
NOTES = [
    (words, r"data.label_pattern='(.+?)[ _.-]*\d+'", [r"data.label_pattern=(.+?)[ _.-]*\d+"]),
    (shards, "data.labels=folders takes them as classes", ["data.labels=folders"]),
    (numbered_on, "set data.labels=none", ["data.labels=none"]),
    (paged, "data.pages=all", ["data.pages=all"]),
    (deep, "data.bits=16 keeps them", ["data.bits=16"]),
    (deep, "--config.data.high=4095", ["data.bits=16", "data.high=4095"]),
    (
        images_and_masks,
        "set data.name=pairs and data.folders=('images','masks')",
        ["data.name=pairs", "data.folders=('images','masks')"],
    ),
    (splits_and_more, "not used: more/; data.splits chooses", ["data.splits=('train','more')"]),
]


@pytest.mark.parametrize(("make", "says", "advised"), NOTES, ids=lambda value: getattr(value, "__name__", None))
def test_what_a_note_tells_to_set_is_taken(make, says, advised, tmp_path):
    folder = tmp_path / "images"
    make(folder)

    def notes(*changes):
        settings = jdiff.config.load("folder")
        arguments = [f"--config.data.dir={folder}", "--config.data.image_size=8"]
        settings = jdiff.config.override(settings, [*arguments, *(f"--config.{change}" for change in changes)])
        source, _ = from_config.sources(settings)
        assert resolve(settings, source).data.num_images >= 1
        return " ".join(source.notes)

    assert says in notes()
    assert says not in notes(*advised)


def test_every_line_that_gives_a_value_is_followed():
    """A literal key=value in a message stands in a case above, or in the tests named here."""
    elsewhere = {
        "train.clip_norm=1.0": "test_errors",
        "train.initial": "test_finetuning",
        "condition.text.on_long=truncate": "test_text",
        "condition.image.view=as_is": "test_data_from_config",
        "data.dir=PATH": "test_errors",
        "train.steps=100": "test_config",
        "data.image_size=": "test_latents",
        "data.flip=False": "test_latents",
        "train.optimizer=adam": "test_reconstruct",
        "condition.text.encoder=frozen": "test_pipelines_training",
        "condition.text.null=learned": "test_text",
        "model.space=latents": "test_latents",
        "model.space=masks": "test_segmentation",
        "sample.condition_dir=PATH": "test_segmentation",
        "data.holdout=0.1": "test_segmentation",
        "guidance.method=classifier_free": "test_tune",
        "sample.ladder=auto": "test_flow_map_task",
    }
    followed = " ".join([*(says for _, says, _ in FOLLOWED), *(says for _, _, says, *_ in FOLDERS)])
    advised = {change for _, _, changes in FOLLOWED for change in changes or ()}
    advised |= {change for *_, changes in (*FOLDERS, *NOTES) for change in changes}
    given = re.compile(rf"(?:set|try|or|with|like|give one with) (?:--config\.)?((?:{GROUPS})\.[a-z_.]+=[\w'.]+)")
    for file, text in MESSAGES:
        for change in given.findall(text):
            plain = change.replace("'", "").rstrip(".")
            known = plain in advised or change in followed or any(plain.startswith(key) for key in elsewhere)
            assert known, f"{file}: nothing follows the advice {change}"
    for test in set(elsewhere.values()):
        assert (Path(__file__).parent / f"{test}.py").is_file()
