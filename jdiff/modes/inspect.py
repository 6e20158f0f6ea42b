"""--mode=inspect: what the data are like, what is wrong with them, and what to set, in words, as report.html with
pictures, and as findings.json with every name.
"""

import json
from pathlib import Path
from typing import get_args

from ml_collections import ConfigDict

from jdiff import doctor, from_config
from jdiff.common.errors import UserError
from jdiff.common.progress import progress_bar
from jdiff.config import denoises, one_of
from jdiff.data.resize import Rule

REPORT = "report.html"


def inspect(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Look at the data that `config` names and write the reports into `out`; the exit status."""
    out = out or workdir / "inspect"
    config = config.copy_and_resolve_references()
    config.data.on_bad_file = "skip"  # and tell
    whole = config.copy_and_resolve_references()
    with whole.ignore_type():  # of two sides, too
        whole.data.image_size = 0  # large JPEGs are looked at as they are
    train, held_out = from_config.sources(whole)
    findings = doctor.examine(
        train,
        held_out,
        names=getattr(train, "names", ()),
        held_out_names=getattr(held_out, "names", ()),
        settings=settings(config),
        progress=progress_bar("looking at images", show=config.log.progress),
    )
    print(doctor.text(findings))
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / REPORT).write_text(doctor.page(findings), "utf-8")
        everything = json.dumps(doctor.plain(findings), indent=1, ensure_ascii=False)
        (out / doctor.EVERYTHING).write_text(f"{everything}\n", "utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give another folder with --out") from error
    print(f"\nwith pictures: {out / REPORT}\nall names: {out / doctor.EVERYTHING}")
    return 0


def settings(config: ConfigDict) -> doctor.Settings:
    """What the doctor compares the data with."""
    data, network, train, objective = config.data, config.network, config.train, config.objective
    diffusion = denoises(config)
    mean = doctor.Settings().mean if objective.mean is None else objective.mean
    return doctor.Settings(
        image_size=data.image_size if isinstance(data.image_size, int) else 0,
        resize=one_of("data.resize", data.resize, get_args(Rule)),  # type: ignore[arg-type]
        multiple=from_config.multiple(config),
        target=data.target,
        channels=data.channels,
        sigma_data=config.model.sigma_data if diffusion and config.model.prediction == "edm" else None,
        mean=mean if diffusion and objective.draw == "lognormal" else None,
        dropout=network.dropout,
        batch_size=train.batch_size,
        images=train.steps * train.batch_size or (0 if train.epochs else train.images),
        epochs=train.epochs,
        text_length=config.condition.text.length if "text" in config.model.conditions else None,
        vocabulary=config.condition.text.vocabulary,
        ranges_are_free=data.name == "arrays",
        square=data.quarter_turns,
        buckets=data.buckets,
        balance=data.balance,
    )
