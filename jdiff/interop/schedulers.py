"""diffusers' schedulers: the process that a model was trained under, and the sampler, as keys of the config."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdiff.common.errors import UserError
from jdiff.interop.tensors import CONFIG

SCHEDULER = "scheduler_config.json"
NETWORKS = ("unet", "transformer")  # a pipeline's folders that may hold the network

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
TABLES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
WITH_ENDS = ("linear", "scaled_linear", "sigmoid")  # tables between beta_start and beta_end

# What a table's scheduler means where its file does not say it; files of old releases lack settings that came later.
USUAL = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "use_flow_sigmas": False,
    "timestep_type": "discrete",
}
STABLE = {**USUAL, "beta_start": 0.00085, "beta_end": 0.012}
DISTILLED = {**STABLE, "beta_schedule": "scaled_linear"}
OF_TABLES = {
    **dict.fromkeys(
        (
            *("DDIMInverseScheduler", "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler"),
            *("DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler"),
            *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler"),
            *("EulerDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler"),
            *("SASolverScheduler", "UniPCMultistepScheduler"),
        ),
        USUAL,
    ),
    **dict.fromkeys(
        ("DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"),
        STABLE,
    ),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), DISTILLED),
}
OF_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
OF_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
NO_TABLE = {"zero_terminal_snr": False, "learned_variance": False}

# A scheduler -> the sampler that takes its steps.
SAMPLERS = {
    **dict.fromkeys(("DDIMParallelScheduler", "DDIMScheduler"), "ddim"),
    **dict.fromkeys(("DDPMParallelScheduler", "DDPMScheduler"), "ddpm"),
    **dict.fromkeys(("EulerDiscreteScheduler", *OF_FLOWS, "EDMEulerScheduler"), "euler"),
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm2",
    "LMSDiscreteScheduler": "lms",
    "UniPCMultistepScheduler": "unipc",
}
OTHERWISE = "dpmpp_2m"
LEADING = ("ddim", "ddpm")  # whose steps are leading where the file does not say; the others' are linspace
SPACED = (*LEADING, "euler", "euler_ancestral")  # samplers that are walked down the table's own steps


@dataclass(frozen=True)
class Process:
    """What a scheduler's file says: keys of the group `model`; none where no such keys say it, and then why not."""

    file: Path
    keys: Mapping[str, Any]
    why_not: str = ""


def network_folder(folder: Path) -> Path:
    """The folder itself, or, where it is a pipeline's, that of its network."""
    within = [folder / name for name in NETWORKS if (folder / name / CONFIG).is_file()]
    return within[0] if within and not (folder / CONFIG).is_file() else folder


def process_of(network: Path) -> Process | None:
    """The process of the scheduler that lies with a network's folder, or beside it; None where there is none. Raises
    UserError where its file cannot be read.
    """
    folders = (network, network / "scheduler", network.parent / "scheduler", network.parent)
    file = next((folder / SCHEDULER for folder in folders if (folder / SCHEDULER).is_file()), None)
    if file is None:
        return None
    return read_process(file)


def read_process(file: Path, kind: str = "") -> Process:
    """The process that a scheduler's file says, of the class `kind` where that is given. Raises UserError where it
    cannot be read.
    """
    try:
        config = json.loads(file.read_text("utf-8"))
        keys = keys_of({**config, "_class_name": kind or config.get("_class_name")})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as a scheduler's: {error}") from error
    return Process(file, keys, "") if isinstance(keys, dict) else Process(file, {}, keys)


def keys_of(config: Mapping[str, Any]) -> dict[str, Any] | str:
    """The keys of the group `model` that say a scheduler's process, or why there are none."""
    name = config.get("_class_name")
    if name in OF_FLOWS:
        return {"schedule": "flow", "prediction": "flow", **NO_TABLE}
    if name in OF_EDM:
        if config.get("prediction_type", "epsilon") != "epsilon":
            return f"{name} with prediction_type={config['prediction_type']!r} is not known here"
        return {"schedule": "edm", "prediction": "edm", "sigma_data": config.get("sigma_data", 0.5), **NO_TABLE}
    if name not in OF_TABLES:
        return f"the class {name!r} is not known here"
    said = {**OF_TABLES[name], **config}
    if said["use_flow_sigmas"] and said["prediction_type"] == "flow_prediction":
        return {"schedule": "flow", "prediction": "flow", **NO_TABLE}
    for setting, known in {
        "use_flow_sigmas": (False,),
        "trained_betas": (None,),
        "timestep_type": ("discrete",),
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "beta_schedule": tuple(TABLES),
    }.items():
        if said[setting] not in known:
            return f"{setting}={said[setting]!r} is not known here"
    if said["rescale_betas_zero_snr"] and said["prediction_type"] == "epsilon":
        return "rescale_betas_zero_snr=True with prediction_type='epsilon' is not known here"
    steps, table = said["num_train_timesteps"], TABLES[said["beta_schedule"]]
    # Here both ends belong to a table of 1,000 steps, whatever its length.
    ends = {end: said[end] * (steps / 1000) for end in ("beta_start", "beta_end") if table in WITH_ENDS}
    return {
        "schedule": table,
        "schedule_steps": steps,
        **ends,
        "zero_terminal_snr": bool(said["rescale_betas_zero_snr"]),
        "prediction": PREDICTIONS[said["prediction_type"]],
    }


def sampling_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the config, by dotted names, with which samples are drawn as this scheduler draws them, where a sampler
    here does so; else a good sampler's.
    """
    name = config.get("_class_name")
    sampler = SAMPLERS.get(str(name), OTHERWISE)
    keys: dict[str, Any] = {"sample.sampler": sampler}
    if sampler == "ddpm":
        variances = {"fixed_large": "large", "learned_range": "learned"}
        keys["sample.variance"] = variances.get(config.get("variance_type", ""), "small")
    if name in OF_TABLES and sampler in LEADING and config.get("clip_sample", True):
        keys["guidance.threshold"] = "static"
    if name not in OF_TABLES or sampler not in SPACED:
        return keys
    # Files hold settings of other classes, too, which a scheduler was made from.
    if sampler == "euler" and config.get("use_karras_sigmas"):
        return keys | {"sample.ladder": "karras"}
    keys["sample.ladder"] = config.get("timestep_spacing", "leading" if sampler in LEADING else "linspace")
    keys["sample.steps_offset"] = config.get("steps_offset", 0)
    ends_low = {
        "ddim": not config.get("set_alpha_to_one", True),
        "euler": config.get("final_sigmas_type") == "sigma_min",
    }
    keys["sample.final_sigma"] = "sigma_min" if ends_low.get(sampler) else "zero"
    return keys
