"""--mode=inspect: what the data are like, what is wrong with them, and what to set, in words, as report.html with
pictures, and as findings.json with every name.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from jdiff import doctor, from_config
from jdiff.common.errors import UserError

REPORT = "report.html"


def inspect(config: ConfigDict, out: Path) -> int:
    """Look at the data that `config` names and write the reports into `out`; the exit status."""
    config = config.copy_and_resolve_references()
    config.data.on_bad_file = "skip"  # and tell
    config.machine.cache = 0.0  # each is read once
    train, held_out = from_config.sources(config)
    splits = ((doctor.TRAIN, train), (doctor.HELD_OUT, held_out))
    findings = doctor.examine(
        train,
        held_out,
        names=getattr(train, "names", ()),
        held_out_names=getattr(held_out, "names", ()),
        left_out=[(split, *each) for split, source in splits for each in getattr(source, "left_out", ())],
        settings=from_config.doctor_settings(config),
        progress=from_config.progress_bar(config, "looking at images"),
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
