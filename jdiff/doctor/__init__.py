"""The data doctor: what a data set is like, what is wrong with it, and what to set in the config.

findings = examine(train, held_out); print(text(findings)); Path("report.html").write_text(page(findings), "utf-8")
Path("findings.json").write_text(json.dumps(plain(findings)), "utf-8")
"""

from jdiff.doctor.advice import Settings
from jdiff.doctor.examination import examine
from jdiff.doctor.findings import EVERYTHING, HELD_OUT, TRAIN
from jdiff.doctor.report import page, plain, text

__all__ = ["EVERYTHING", "HELD_OUT", "TRAIN", "Settings", "examine", "page", "plain", "text"]
