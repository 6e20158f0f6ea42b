"""The peers: diffusers' UNet2DModel with two recipes, and lucidrains' denoising-diffusion-pytorch.

All are torch modules (x [n, c, h, w], times, labels) that are trained on the same number of images as ours.
"""

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.work import CLASSES, CLOSE, Images, Side, Work, asked

BATCH = 250
STEPS = 1000  # of the diffusion process

Draw = Callable[[str, int, int], Images]


def device() -> str:
    return "cuda" if import_module("torch").cuda.is_available() else "cpu"


def fit(
    work: Work,
    steps: int,
    seed: int,
    *,
    loss: Callable[[Any, Any], Any],
    parameters: list[Any],
    optimizer: Any,
    rate: Callable[[int], float],
    average: Callable[[int], None],
) -> None:
    """Train: loss(x0 in [-1, 1], labels), gradients clipped to norm 1 (as all of these recipes, and ours, do), `rate`
    times the learning rate, and `average` after each step.
    """
    torch: Any = import_module("torch")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step, (images, labels) in enumerate(work.batches(steps, seed)):
        x0 = torch.from_numpy(images).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1
        optimizer.zero_grad(set_to_none=True)
        loss(x0, torch.from_numpy(labels).to(device())).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average(step + 1)


def as_pixels(x: Any) -> Images:
    """x in [-1, 1], [n, c, h, w] -> uint8 [n, h, w, c]."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


# diffusers


def unet2d(work: Work) -> Any:
    """UNet2DModel of our widths, blocks, attention and way to take the noise level in."""
    network = work.config.network
    attends = [level in network.attention_levels for level in range(len(network.channel_mults))]
    widths = tuple(mult * network.channels for mult in network.channel_mults)
    return import_module("diffusers").UNet2DModel(
        sample_size=work.train[0].shape[1],
        in_channels=work.train[0].shape[3],
        out_channels=work.train[0].shape[3],
        layers_per_block=network.blocks_per_level,
        block_out_channels=widths,
        norm_num_groups=8,
        attn_norm_num_groups=8,
        attention_head_dim=widths[-1] // network.attention_heads,
        resnet_time_scale_shift="scale_shift" if network.scale_shift else "default",
        dropout=network.dropout,
        num_class_embeds=CLASSES,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
    )


def noise_scheduler(recipe: str) -> Any:
    """example: DDPMScheduler as it comes (linear betas, x0 clipped). tuned: the cosine table."""
    betas = {"example": "linear", "tuned": "squaredcos_cap_v2"}[recipe]
    return import_module("diffusers").DDPMScheduler(num_train_timesteps=STEPS, beta_schedule=betas)


def train_diffusers(recipe: str, work: Work, steps: int, seed: int, parameters: int, folder: Path) -> int:
    """example: examples/unconditional_image_generation/train_unconditional.py, its arguments' defaults, by class
    with our batch size. tuned: our optimizer, warm-up and average.
    """
    torch: Any = import_module("torch")
    torch.manual_seed(seed)
    model, table, settings = unet2d(work).to(device()), noise_scheduler(recipe), work.config.train
    weights, size = list(model.parameters()), settings.batch_size

    def loss(x0: Any, labels: Any) -> Any:
        noise, times = torch.randn_like(x0), torch.randint(0, STEPS, (len(x0),), device=x0.device)
        predicted = model(table.add_noise(x0, noise, times), times, class_labels=labels).sample
        return torch.nn.functional.mse_loss(predicted, noise)

    if recipe == "example":
        optimizer = torch.optim.AdamW(weights, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        training = import_module("diffusers.training_utils")
        ema = training.EMAModel(weights, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)

        def rate(step: int) -> float:
            if step < 500:
                return step / 500
            return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - 500) / max(1, steps - 500))))

        def average(step: int) -> None:
            ema.step(weights)

        fit(work, steps, seed, loss=loss, parameters=weights, optimizer=optimizer, rate=rate, average=average)
        ema.copy_to(weights)
    else:
        optimizer = torch.optim.Adam(weights, lr=settings.learning_rate, betas=(settings.b1, settings.b2))
        mean = [weight.detach().clone() for weight in weights]

        def rate(step: int) -> float:
            return min(1.0, (step + 1) * size / max(size, settings.warmup_images))

        def average(step: int) -> None:
            halflife = min(settings.ema_halflife_images, settings.ema_rampup * step * size)
            torch._foreach_lerp_(mean, [weight.detach() for weight in weights], 1 - 0.5 ** (size / halflife))

        fit(work, steps, seed, loss=loss, parameters=weights, optimizer=optimizer, rate=rate, average=average)
        for weight, averaged in zip(weights, mean, strict=True):
            weight.data.copy_(averaged)
    torch.save(model.state_dict(), folder / "weights.pt")
    return sum(weight.numel() for weight in weights)


def load_diffusers(recipe: str, work: Work, folder: Path) -> Draw:
    torch, diffusers = import_module("torch"), import_module("diffusers")
    model, table = unet2d(work), noise_scheduler(recipe)
    model.load_state_dict(torch.load(folder / "weights.pt", map_location="cpu"))
    model.to(device()).eval()
    # Trailing steps, without which few calls start at too little noise (arXiv 2305.08891). Their documentation asks
    # for the clipped lambda with the cosine table.
    clipped = {"lambda_min_clipped": -5.1} if recipe == "tuned" else {}
    solvers = {
        "ddpm": lambda: table,
        "ddim": lambda: diffusers.DDIMScheduler.from_config(table.config, timestep_spacing="trailing"),
        "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler.from_config(table.config, **clipped),
    }

    def draw(sampler: str, nfe: int, seed: int) -> Images:
        torch.manual_seed(seed)
        images = []
        for classes in torch.from_numpy(asked()).to(device()).split(BATCH):
            solver = solvers[sampler]()
            solver.set_timesteps(nfe, device=device())
            x = torch.randn(len(classes), *work.train[0].shape[:0:-1], device=device()) * solver.init_noise_sigma
            with torch.no_grad():
                for t in solver.timesteps:
                    predicted = model(solver.scale_model_input(x, t), t, class_labels=classes).sample
                    x = solver.step(predicted, t, x).prev_sample
            images.append(as_pixels(x))
        return np.concatenate(images)

    return draw


# lucidrains


def lucidrains_unet(work: Work, parameters: int) -> Any:
    """Its classifier-free-guidance Unet with our multipliers; channels and heads' width bring the parameters near."""
    torch, library = import_module("torch"), import_module("denoising_diffusion_pytorch.classifier_free_guidance")
    options = {
        "dim_mults": tuple(work.config.network.channel_mults),
        "num_classes": CLASSES,
        "channels": work.train[0].shape[3],
    }

    def off(dim: int, head: int) -> float:
        with torch.device("meta"):
            unet = library.Unet(dim, attn_dim_head=head, **options)
        return abs(sum(weight.numel() for weight in unet.parameters()) / parameters - 1)

    # Its own 32 channels a head where they fit.
    sizes = [(dim, head) for head in (32, 24, 16, 40, 48, 64, 96) for dim in range(8, 97, 2)]
    dim, head = next((size for size in sizes if off(*size) < CLOSE), (0, 0))
    if not dim:
        raise SystemExit(f"lucidrains' Unet fits {parameters:,} parameters with no width")
    return library.Unet(dim, attn_dim_head=head, **options)


def lucidrains(unet: Any, work: Work, **settings: Any) -> Any:
    """GaussianDiffusion with the objective of the library's main class; the cosine table is this module's."""
    library = import_module("denoising_diffusion_pytorch.classifier_free_guidance")
    side = work.train[0].shape[1]
    return library.GaussianDiffusion(unet, image_size=side, timesteps=STEPS, objective="pred_v", **settings)


def train_lucidrains(work: Work, steps: int, seed: int, parameters: int, folder: Path) -> int:
    """The README's Trainer: Adam 8e-5 (betas 0.9 and 0.99), an average with 0.995 every 10 steps; labels are dropped
    at the module's rate, 0.5.
    """
    torch, ema_pytorch = import_module("torch"), import_module("ema_pytorch")
    torch.manual_seed(seed)
    unet = lucidrains_unet(work, parameters).to(device())
    model = lucidrains(unet, work).to(device())
    weights = list(unet.parameters())
    ema = ema_pytorch.EMA(unet, beta=0.995, update_every=10)
    fit(
        work,
        steps,
        seed,
        loss=lambda x0, labels: model((x0 + 1) / 2, classes=labels),  # it takes [0, 1]
        parameters=weights,
        optimizer=torch.optim.Adam(weights, lr=8e-5, betas=(0.9, 0.99)),
        rate=lambda step: 1.0,
        average=lambda step: ema.update(),
    )
    torch.save({"parameters": parameters, "weights": ema.ema_model.state_dict()}, folder / "weights.pt")
    return sum(weight.numel() for weight in weights)


def load_lucidrains(work: Work, folder: Path) -> Draw:
    torch = import_module("torch")
    saved = torch.load(folder / "weights.pt", map_location="cpu")
    unet = lucidrains_unet(work, saved["parameters"])
    unet.load_state_dict(saved["weights"])
    unet.to(device()).eval()
    # Unguided. With its own cond_scale=1 it returns one tensor where its caller unpacks two.
    unet.forward_with_cond_scale = lambda x, t, classes, **_: (unet(x, t, classes, cond_drop_prob=0.0),) * 2

    def draw(sampler: str, nfe: int, seed: int) -> Images:
        torch.manual_seed(seed)
        eta = {"ddim": 0.0, "ddim_eta_1": 1.0}[sampler]  # 1 is this module's own
        model = lucidrains(unet, work, sampling_timesteps=nfe, ddim_sampling_eta=eta).to(device())
        classes = torch.from_numpy(asked()).to(device()).split(BATCH)
        drawn = [model.sample(some, rescaled_phi=0.0) for some in classes]
        return as_pixels(torch.cat(drawn) * 2 - 1)

    return draw


def _diffusers(recipe: str) -> Side:
    return Side(
        f"diffusers_{recipe}",
        partial(train_diffusers, recipe),
        partial(load_diffusers, recipe),
        lambda nfe: ("ddim", "dpmpp_2m") if nfe < 250 else ("ddpm",),
    )


SIDES = (
    _diffusers("example"),
    _diffusers("tuned"),
    Side(
        "lucidrains",
        train_lucidrains,
        load_lucidrains,
        lambda nfe: ("ddim", "ddim_eta_1") if nfe < 250 else ("ddim_eta_1",),
    ),
)
