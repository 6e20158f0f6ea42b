"""Masks of NIfTI volumes and DICOM files: in the input's form, at its place."""

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jdiff
from tests.conftest import TINY, config, refusal, run_here

nib = pytest.importorskip("nibabel", reason="the extra `medical` is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra `medical` is not installed")

from jdiff.common.errors import UserError  # noqa: E402
from jdiff.data import nifti  # noqa: E402
from jdiff.data.given import given  # noqa: E402
from jdiff.data.sources import Picture  # noqa: E402
from tests.test_medical import dataset, saved  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::pydicom")

MATRIX = np.array([[0, 0.7, 0.1, -20], [-0.8, 0, 0, 35], [0, 0.1, 3, 8], [0, 0, 0, 1]])


def volume(seed: int, shape: tuple[int, ...], file: Path, mask: bool = False) -> np.ndarray:
    """A bright box on a noisy ground, in Hounsfield's units, or its mask."""
    rng, box = np.random.default_rng(seed), np.zeros(shape, bool)
    box[4:11, 3:9] = True
    values = box.astype(np.uint8) if mask else (100 * box + rng.normal(0, 10, shape)).astype(np.int16)
    file.parent.mkdir(parents=True, exist_ok=True)
    made = nib.Nifti1Image(values, MATRIX)
    made.set_qform(MATRIX, 1)
    made.set_sform(np.diag([1.0, 2, 3, 1]), 2)
    nib.save(made, file)
    return values


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> jdiff.Model:
    folder = tmp_path_factory.mktemp("volumes")
    for number in range(4):
        volume(number, (16, 16, 8), folder / "data" / "images" / f"{number}.nii.gz")
        volume(number, (16, 16, 8), folder / "data" / "masks" / f"{number}.nii", mask=True)
    wanted = (f"--config.data.dir={folder / 'data'}", "--config.data.suffixes=('','')", "--config.data.image_size=16")
    small = (
        *TINY,
        "--config.train.images=320",
        "--config.network.blocks_per_level=1",
        "--config.train.learning_rate=1e-2",
        "--config.train.warmup_images=0",
    )
    more = ("--config.train.ema_halflife_images=50", "--config.network.dropout=0.0", "--config.segment.members=1")
    result = run_here(config("lidc"), *small, *wanted, *more, "--config.task=segmentation", "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return jdiff.load(folder / "run")


def segment(model: jdiff.Model, photos: Path, *more: str) -> tuple[str, ...]:
    return ("--mode=segment", f"--workdir={model.workdir}", f"--config.sample.condition_dir={photos}", *more)


def told_by(model: jdiff.Model, values: np.ndarray) -> np.ndarray:
    low, high = model.config.condition.image.range
    return model.segment(values.astype(np.float32).clip(low, high)[..., None], members=1)


@pytest.mark.slow
def test_volumes_give_volumes_at_their_place(model, tmp_path):
    given = {
        "ward/a.nii.gz": volume(10, (16, 16, 6), tmp_path / "given" / "ward" / "a.nii.gz"),
        "b.nii": volume(11, (16, 16, 3), tmp_path / "given" / "b.nii"),
        "times.nii": volume(12, (16, 16, 3, 2), tmp_path / "given" / "times.nii"),
        "large.nii": volume(13, (40, 30, 2), tmp_path / "given" / "large.nii"),
    }
    result = run_here(*segment(model, tmp_path / "given", "--out=found"), cwd=tmp_path)
    assert result.status == 0, result.err
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "found" / "segmentation.csv").open())}
    for name, values in given.items():
        before = nib.load(tmp_path / "given" / name)
        maps = {kind: nib.load(tmp_path / "found" / kind / name) for kind in ("masks", "probabilities", "entropy")}
        for made in maps.values():
            np.testing.assert_array_equal(made.get_qform(), before.get_qform())
            np.testing.assert_array_equal(made.get_sform(), before.get_sform())
            assert made.shape == before.shape
        mask = maps["masks"].get_fdata()
        assert int(rows[name]["area"]) == mask.sum() > 0
        assert int(rows[name]["slices"]) == values[0, 0].size
        overlay = Image.open(tmp_path / "found" / "overlays" / f"{name.partition('.')[0]}.png")
        assert overlay.size == values.shape[1::-1]
        if name == "large.nii":
            continue
        pages = values.reshape(16, 16, -1, order="F").transpose(2, 0, 1)
        found = told_by(model, pages)
        np.testing.assert_array_equal(mask.reshape(16, 16, -1, order="F").transpose(2, 0, 1), found.numbers)
        p = maps["probabilities"].get_fdata().reshape(16, 16, -1, order="F").transpose(2, 0, 1)
        np.testing.assert_allclose(p, found.foreground, atol=0.6 / 255)
        entropy = maps["entropy"].get_fdata().reshape(16, 16, -1, order="F").transpose(2, 0, 1)
        np.testing.assert_allclose(entropy, found.entropy, atol=0.6 * np.log(2) / 255)
    again = run_here(*segment(model, tmp_path / "given", "--out=found"), cwd=tmp_path)
    assert "masks of 4 pictures" in again.out
    (tmp_path / "found" / "masks" / "b.nii").unlink()
    mended = run_here(*segment(model, tmp_path / "given", "--out=found"), cwd=tmp_path)
    assert "3 of 4 pictures are there already" in mended.out
    assert (tmp_path / "found" / "masks" / "b.nii").is_file()


def test_dicom_gives_pictures(model, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(-20, 120, (3, 20, 24), np.int16)
    (folder / "IM1").write_bytes(saved(dataset(frames)))
    (folder / "1.2.840.1").write_bytes(saved(dataset(frames[0])))
    result = run_here(*segment(model, folder, "--out=found"), cwd=tmp_path)
    assert result.status == 0, result.err
    for kind in ("masks", "probabilities", "entropy", "variance", "overlays"):
        made = {str(file.relative_to(tmp_path / "found" / kind)) for file in (tmp_path / "found" / kind).iterdir()}
        assert made == {"1.2.840.1.png", *(f"IM1_{frame:04d}.png" for frame in range(3))}
    assert Image.open(tmp_path / "found" / "masks" / "1.2.840.1.png").size == (24, 20)


def test_files_of_another_kind_are_named(model, tmp_path):
    (tmp_path / "given").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "given" / "a.png")
    said = refusal(*segment(model, tmp_path / "given"), cwd=tmp_path)
    assert "given/a.png cannot be read: it is an image file, and this model was trained on values as DICOM" in said
    volume(1, (16, 16, 2), tmp_path / "cut" / "b.nii")
    with pytest.raises(
        UserError, match=r"it holds values in DICOM's or NIfTI's units, .* trained on uint8 of 3 channels"
    ):
        given(str(tmp_path / "cut"), "sample.condition_dir", Picture((16, 16, 3))).read("b.nii")
    whole = (tmp_path / "cut" / "b.nii").read_bytes()
    (tmp_path / "cut" / "b.nii").write_bytes(whole[:-100])
    said = refusal(*segment(model, tmp_path / "cut"), cwd=tmp_path)
    assert "cut/b.nii cannot be read: it is cut short" in said
    assert "--config.segment.on_bad_file=skip leaves it out" in said


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (5, 6, 3, 4), (5, 4, 3, 2, 3)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_slices_put_together_are_the_volume(kind, shape, axis):
    values = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    made = kind(values, MATRIX)
    stream = BytesIO(made.to_bytes())
    count = nifti.look(stream, axis).pages
    pages = [nifti.slice_of(stream, axis, page).astype(np.uint8) for page in range(count)]
    again = kind.from_bytes(nifti.like(stream, pages, axis, 0.5))
    np.testing.assert_array_equal(again.get_fdata(), 0.5 * values)
    np.testing.assert_array_equal(again.affine, kind.from_bytes(stream.getvalue()).affine)
