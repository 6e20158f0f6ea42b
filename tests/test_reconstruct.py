"""--mode=reconstruct and --mode=sample of autoencoders: numbers, pictures, what is told of latents."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jdiff
from jdiff.common.errors import UserError
from jdiff.data.resize import Resize
from jdiff.data.sources.digits import Digits
from jdiff.networks.bottlenecks import VQ, Gaussian, Plain
from jdiff.scoring.latent_use import LatentUse
from tests.conftest import config, refusal, run_here, start_command
from tests.test_latents import SHORT, SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reconstruct")
    for name, more in (("vae", ()), ("collapsed", ("--config.autoencoder.beta=1000",)), ("vq", ())):
        kind = "digits_vqvae" if name == "vq" else "digits_vae"
        result = run_here(config(kind), *SMALL, *more, f"--workdir={name}", cwd=folder)
        assert result.status == 0, result.err
    return folder


def reconstructed(folder: Path, name: str, *more: str) -> tuple[str, dict]:
    result = run_here("--mode=reconstruct", f"--workdir={name}", "--config.eval.features=pixels", *more, cwd=folder)
    assert result.status == 0, result.err
    return result.out, json.loads((folder / name / "reconstruction" / "reconstruction.json").read_text())


def test_numbers_are_of_the_held_out_images(folder):
    out, held = reconstructed(folder, "vae")
    images = np.stack([record["image"] for record in Digits("test").__getitems__(range(297))])
    back = jdiff.load(folder / "vae").reconstruct(images).astype(float)
    error = np.mean((back - images) ** 2, axis=(1, 2, 3))
    psnr = 10 * np.log10(255**2 / error)
    assert held["numbers"]["psnr"]["value"] == pytest.approx(psnr.mean(), abs=1e-3)
    np.testing.assert_allclose(held["psnr"], psnr, atol=1e-3)
    assert held["count"] == 297
    assert 0 < held["numbers"]["kl_nats"]["value"] < 1000
    assert held["numbers"]["elbo_bits"]["value"] > 0
    assert {"PSNR of bicubic", "KL", "bits/dim"} <= {one["title"] for one in held["numbers"].values()}
    assert "of 297 held-out images of digits" in out
    for name in ("pairs.png", "worst.png", "best.png", "interpolation.png", "interpolation.gif"):
        assert (folder / "vae" / "reconstruction" / name).is_file()
    worst = np.asarray(Image.open(folder / "vae" / "reconstruction" / "worst.png"))
    assert worst.ndim in (2, 3)


@pytest.mark.slow
def test_the_autoencoder_of_a_latent_model_is_scored_too(folder):
    """The same as by itself, on the latent model's data."""
    ldm = (config("digits_ldm"), *SHORT, "--config.train.steps=2", "--config.space.autoencoder=vae", "--workdir=ldm")
    assert run_here(*ldm, cwd=folder).status == 0
    (_, own), (_, kept) = reconstructed(folder, "vae"), reconstructed(folder, "ldm")
    assert kept["psnr"] == own["psnr"]


@pytest.mark.slow
def test_collapse_is_told(folder):
    out, held = reconstructed(folder, "collapsed")
    assert held["faults"] == [
        "posterior collapse: the latents tell nothing of the image; lower autoencoder.beta and train again"
    ]
    assert held["faults"][0] in out
    _, fine = reconstructed(folder, "vae")
    assert not fine["faults"]


def test_use_of_codes_is_told(folder):
    _, held = reconstructed(folder, "vq")
    numbers = held["numbers"]
    assert 0.1 < numbers["codes_used"]["value"] <= 1
    assert 1 < numbers["perplexity"]["value"] <= 64


@pytest.mark.parametrize("bottleneck", [Gaussian(3), Plain(3), VQ(8, 3)])
def test_unused_channels_are_named(bottleneck):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 2, 2, bottleneck.features)).astype(np.float32)
    features[..., 1] = 0
    if isinstance(bottleneck, Gaussian):
        features[..., 3:] = -4.0  # log-variances
        features[..., 4] = 0.0
    state = VQ(8, 3).holding(jnp.asarray(rng.normal(size=(8, 3)), jnp.float32))
    use = LatentUse(bottleneck, state)
    for part in (features[:2], features[2:]):
        use.add(part)
    assert use.faults() == ["channel 1 of the latents' 3 tell nothing of the image: fewer would do as well"]


@pytest.mark.slow
def test_images_of_files_are_reconstructed(folder, tmp_path):
    images = Digits("test").__getitems__(range(5))
    for number, record in enumerate(images):
        Image.fromarray(record["image"][..., 0]).save(tmp_path / f"{number}.png")
    _, held = reconstructed(folder, "vae", f"--config.eval.images={tmp_path}")
    assert held["count"] == 5
    one = tmp_path / "3.png"
    _, single = reconstructed(folder, "vae", f"--config.eval.images={one}")
    assert single["psnr"] == pytest.approx([held["psnr"][3]])
    (tmp_path / "large").mkdir()
    larger = [record["image"].repeat(2, 0).repeat(2, 1) for record in images] + [np.zeros((8, 32, 1), np.uint8)]
    for number, image in enumerate(larger):
        Image.fromarray(image[..., 0]).save(tmp_path / "large" / f"{number}.png")
    out, large = reconstructed(folder, "vae", f"--config.eval.images={tmp_path / 'large'}")
    assert "6 of 6 images in eval.images, of 8x32 to 16x16, are brought to 8x8, as in training (data.resize=" in out
    seen = np.stack([Resize("centre", 8, 8)({"image": image})["image"] for image in larger]).astype(float)
    back = jdiff.load(folder / "vae").reconstruct(seen.astype(np.uint8))
    assert large["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean((back - seen) ** 2, axis=(1, 2, 3))))
    size = (f"--config.eval.images={tmp_path / 'large'}", "--config.sample.size=(16,16)")
    out, _ = reconstructed(folder, "vae", *size)
    assert "1 of 6 images in eval.images, of 8x32, are brought to 16x16" in out
    Image.fromarray(np.zeros((8, 8, 3), np.uint8) + np.arange(3, dtype=np.uint8) * 80).save(tmp_path / "colour.png")
    said = refusal("--mode=reconstruct", "--workdir=vae", f"--config.eval.images={tmp_path / 'colour.png'}", cwd=folder)
    assert "these images have 3 channels, and the autoencoder's 1" in said


def test_a_vae_samples_from_its_prior_and_others_have_none(folder):
    result = run_here("--mode=sample", "--workdir=vae", "--config.sample.num_images=7", cwd=folder)
    assert result.status == 0, result.err
    drawn = np.load(folder / "vae" / "samples" / "samples" / "samples.npz")["images"]
    assert (drawn.shape, drawn.dtype) == ((7, 8, 8, 1), np.uint8)
    model = jdiff.load(folder / "vae")
    np.testing.assert_array_equal(model.sample(num_images=7), drawn)
    np.testing.assert_array_equal(model.prior(3, first=2), drawn[2:5])
    said = refusal("--mode=sample", "--workdir=vae", "--config.sample.sampler=ddim", cwd=folder)
    assert "sample.sampler='ddim' is for diffusion models, and vae holds an autoencoder" in said
    said = refusal("--mode=sample", "--workdir=vq", cwd=folder)
    assert "autoencoder.bottleneck='vq' has no prior to sample from: train a diffusion model of its latents" in said
    with pytest.raises(UserError, match="sampler is for diffusion models"):
        model.sample(4, sampler="heun")
    with pytest.raises(UserError, match="task='autoencoder' is no diffusion model; --mode=reconstruct scores"):
        model.invert(drawn)


@pytest.mark.slow
def test_the_decoder_alone_is_trained(folder):
    """The encoder stays to the bit; another loss trains the decoder."""
    more = ("--config.autoencoder.decoder_only=True", "--config.autoencoder.losses=('l1',)", "--config.train.steps=5")
    more = (*more, "--config.train.ema_halflife_images=0")
    result = run_here(config("digits_vae"), *SMALL, *more, "--config.train.initial=vae", "--workdir=fine", cwd=folder)
    assert result.status == 0, result.err
    before, after = (jdiff.load(folder / name).params["autoencoder"] for name in ("vae", "fine"))
    same = {name: all((one == other).all() for one, other in leaves(before[name], after[name])) for name in before}
    assert same == {"encoder": True, "decoder": False}
    decayed = ("--config.train.optimizer=adamw", "--config.train.weight_decay=0.1", "--workdir=decayed")
    said = refusal(config("digits_vae"), *SMALL, *more, "--config.train.initial=vae", *decayed, cwd=folder)
    assert "train.optimizer='adamw' shrinks all weights: set train.optimizer=adam" in said
    said = refusal(config("digits_vae"), *SMALL, *more, "--workdir=other", cwd=folder)
    assert "autoencoder.decoder_only=True needs an encoder to keep: set train.initial" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "vq"])
def test_an_autoencoder_goes_to_diffusers_and_back(name, folder, tmp_path):
    """AutoencoderKL and VQModel of the same settings; a run that starts from there has the same weights."""
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    widths = {"in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1}
    same = {**blocks, **widths, "latent_channels": 4, "norm_num_groups": 1, "mid_block_add_attention": False}
    theirs = diffusers.VQModel(**same, num_vq_embeddings=64) if name == "vq" else diffusers.AutoencoderKL(**same)
    theirs.save_pretrained(tmp_path / "theirs")
    start = ("--config.train.steps=1", f"--config.train.initial={tmp_path / 'theirs'}", "--workdir=run")
    kind = config("digits_vqvae" if name == "vq" else "digits_vae")
    result = run_here(kind, *SMALL, *start, cwd=tmp_path)
    assert result.status == 0, result.err
    model = jdiff.load(tmp_path / "run")
    model.export(tmp_path / "back", like=tmp_path / "theirs")
    again = type(theirs).from_pretrained(tmp_path / "back")
    names = {key for key, _ in again.named_parameters()}
    assert names == {key for key, _ in theirs.named_parameters()}
    import torch

    x = torch.zeros(1, 1, 8, 8)
    again(x)  # it computes
    whole = again.state_dict()
    ours = model.params["autoencoder"]["decoder"]["last"]["kernel"]
    np.testing.assert_allclose(whole["decoder.conv_out.weight"].permute(2, 3, 1, 0), ours, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_vae", "digits_vqvae"])
def test_recipes_of_digits_reach_what_they_say(name, tmp_path):
    """PCA with as many components as the VAE has latents gives 19.7 dB."""
    process = start_command(config(name), "--config.train.sample_every=0", "--workdir=run", cwd=tmp_path, xla="")
    _, err = process.communicate(timeout=3600)  # well compiled, as minutes of training ask for
    assert process.returncode == 0, err
    out, held = reconstructed(tmp_path, "run")
    assert held["numbers"]["psnr"]["value"] >= 19.7, out
    assert held["faults"] == []


@pytest.mark.slow
def test_a_run_that_goes_on_with_another_batch_starts_its_adversary_after_as_many_images(tmp_path):
    """After 96: 2 steps of 32 and 2 of 16."""
    small = ("--config.autoencoder.adversary=hinge", "--config.autoencoder.adversary_channels=4")
    small = (*small, "--config.autoencoder.adversary_layers=2", "--config.autoencoder.adversary_start=96")
    run = (config("digits_vae"), *SMALL, *small, "--config.log.every=1")
    for steps, size in ((2, 32), (6, 16)):
        more = (f"--config.train.steps={steps}", f"--config.train.batch_size={size}", "--workdir=run")
        result = run_here(*run, *more, cwd=tmp_path)
        assert result.status == 0, result.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    known = [row for row in rows if "discriminator" in row]
    playing = [row["step"] for row in known if row["loss"] > row["l2"] + 0.5 * row["discriminator"]]
    assert [row["step"] for row in known] == [1, 2, 3, 4, 5, 6]
    assert playing == [5, 6]


def leaves(first, second):
    return zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)


def test_losses_that_cannot_be_are_told(tmp_path):
    start = (config("digits_vae"), *SMALL, "--workdir=run")
    said = refusal(*start, "--config.autoencoder.losses=('l1','lpips')", cwd=tmp_path)
    assert "LPIPS needs two files, of its network and of its heads. LPIPS's VGG16 is in the file vgg16-397923af" in said
    said = refusal(*start, "--config.autoencoder.losses=('l3',)", cwd=tmp_path)
    assert "autoencoder.losses='l3' is unknown" in said
    said = refusal(
        *start, "--config.autoencoder.adversary=hinge", "--config.autoencoder.adversary_layers=4", cwd=tmp_path
    )
    assert "autoencoder.adversary_layers=4 halve images of 8x8 to nothing: set at most 3" in said
    said = refusal("--mode=reconstruct", "--workdir=run", cwd=tmp_path)
    assert "run holds no run" in said
