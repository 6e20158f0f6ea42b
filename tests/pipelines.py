"""Tiny pipelines of diffusers with random weights, saved as their libraries save them, and what diffusers draws."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

TEXTS = ("a red square", "two very small green circles above a blue star")
WORDS = "a red green blue square circle star small above two"
SIDE, FACTOR = 8, 2  # of latents; an image's side over theirs
CONTRAST = 2.0  # of decoded images, which random weights make nearly grey


def stable_diffusion(
    folder: Path, *, prediction: str = "epsilon", scheduler: dict[str, Any] | None = None, levels: int = 2
) -> Path:
    """A StableDiffusionPipeline over images of 16x16, with a tokenizer of a few words. levels: of its network."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder.with_name(f"{folder.name}_words"))
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(8, 16)[:levels],
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[:levels],
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[-levels:],
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    usual = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0004,
        "beta_end": 0.004,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction,
    }
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder_kl(),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(**usual | (scheduler or {})),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return saved(pipeline, folder)


def dit(folder: Path) -> Path:
    """A DiTPipeline over images of 16x16: of 1,000 classes, as its null is class 1,000 whatever their number."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=SIDE
    )
    names = {number: f"class {number}, no. {number}" for number in range(1000)}
    scheduler = diffusers.DDIMScheduler(beta_end=0.004, clip_sample=False)
    saved(diffusers.DiTPipeline(transformer, autoencoder_kl(), scheduler), folder)
    with_index(folder, id2label=names)  # as published ones have them, and save_pretrained forgets them
    return folder


def ldm(folder: Path) -> Path:
    """An LDMPipeline, unconditional, over a VQ autoencoder of images of 16x16."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    vqvae = diffusers.VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        num_vq_embeddings=64,
        scaling_factor=0.8,
    )
    torch.nn.init.normal_(vqvae.quantize.embedding.weight)  # theirs lie so near 0 that one code serves all
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0005, beta_end=0.003, clip_sample=False
    )
    return saved(diffusers.LDMPipeline(contrasted(vqvae), unet, scheduler), folder)


def autoencoder_kl() -> Any:
    return contrasted(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIDE * FACTOR,
            scaling_factor=0.3,
        )
    )


def contrasted(autoencoder: Any) -> Any:
    with torch.no_grad():
        autoencoder.decoder.conv_out.weight.mul_(CONTRAST)
    return autoencoder


def clip_tokenizer(folder: Path) -> Any:
    """A tokenizer of CLIP's kind: bytes, and the words of WORDS, whose pairs are merged from the left."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    alphabet = list(bytes_to_unicode().values())
    vocabulary, merges = [*alphabet, *(f"{letter}</w>" for letter in alphabet)], []
    for word in WORDS.split():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(" ".join(parts[:2]))
            parts = ["".join(parts[:2]), *parts[2:]]
            vocabulary.append(parts[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def clip_text(tokenizer: Any, **settings: Any) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    return transformers.CLIPTextModel(config).eval()


def saved(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def with_index(folder: Path, **changed: Any) -> None:
    """The pipeline's model_index.json with other entries; None takes one away."""
    file = folder / "model_index.json"
    index = {**json.loads(file.read_text()), **changed}
    file.write_text(json.dumps({name: value for name, value in index.items() if value is not None}))


def opened(folder: Path, scheduler: type | None = None, **settings: Any) -> Any:
    """The pipeline as diffusers reads it from its folder; with a scheduler of another class, the process being its
    own's.
    """
    pipeline = getattr(diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"])
    options = {"safety_checker": None} if pipeline is diffusers.StableDiffusionPipeline else {}
    made = pipeline.from_pretrained(folder, **options)
    made.set_progress_bar_config(disable=True)
    for name in ("unet", "transformer", "vae", "vqvae", "text_encoder"):
        for parameter in getattr(made, name).parameters() if getattr(made, name, None) else ():
            parameter.data = parameter.data.clone()  # at an aligned address: their sums are in another order elsewhere
    if scheduler or settings:
        made.scheduler = (scheduler or type(made.scheduler)).from_config({**made.scheduler.config, **settings})
    return made


def with_latents_kept(pipeline: Any) -> Any:
    """The pipeline with latents scaled as its network's input alone: their DiTPipeline goes on from the scaled ones."""
    scheduler, network = pipeline.scheduler, pipeline.transformer
    scale, forward = scheduler.scale_model_input, network.forward
    factor = []

    def told(sample, timestep):
        factor[:] = [scale(torch.ones(()), timestep)]
        return sample

    scheduler.scale_model_input = told
    network.forward = lambda x, **settings: forward(x * factor[0], **settings)
    return pipeline


def noise(count: int, channels: int, seed: int = 0) -> np.ndarray:
    """Latents of unit variance, [n, h, w, c]."""
    return np.random.default_rng(seed).normal(size=(count, SIDE, SIDE, channels)).astype(np.float32)


def drawn(pipeline: Any, z: np.ndarray, steps: int = 10, output: str = "np", **call: Any) -> np.ndarray:
    """The pipeline's images in [0, 1], or its latents, from the given noise z."""
    latents = torch.tensor(np.ascontiguousarray(z.transpose(0, 3, 1, 2)))
    if isinstance(pipeline, diffusers.StableDiffusionPipeline):
        made = pipeline(
            list(call.pop("texts")), latents=latents, num_inference_steps=steps, output_type=output, **call
        ).images
        return made.numpy().transpose(0, 2, 3, 1) if output == "latent" else made
    module = __import__(type(pipeline).__module__, fromlist=["randn_tensor"])  # these two take no latents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda *_, **__: latents.clone())
        if isinstance(pipeline, diffusers.LDMPipeline):
            return pipeline(batch_size=len(z), num_inference_steps=steps, output_type="np").images
        return pipeline(list(call.pop("labels")), num_inference_steps=steps, output_type="np", **call).images


def latents_of(pipeline: Any, z: np.ndarray, **call: Any) -> np.ndarray:
    """The latents that the pipeline decodes, over its scaling factor."""
    vae = getattr(pipeline, "vae", None) or pipeline.vqvae
    seen: list[Any] = []
    decode: Callable = vae.decode
    vae.decode = lambda z, *args, **settings: (seen.append(z), decode(z, *args, **settings))[1]
    try:
        drawn(pipeline, z, **call)
    finally:
        del vae.decode
    return seen[0].numpy().transpose(0, 2, 3, 1)


def levels(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as they are written to files."""
    return (images * 255).round().astype(np.uint8)
