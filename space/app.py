"""The page of the run in the folder `run` beside this file."""

import sys
from pathlib import Path

from jdiff.main import main

run = Path(__file__).with_name("run")
sys.exit(main(["--mode=serve", f"--workdir={run}", "--config.serve.host=0.0.0.0", "--config.serve.port=7860"]))
