"""Evaluation of a model, or of images that exist already.

judge = scoring.judge(config, mesh)                                      # features, reference, protocol: once
result = scoring.evaluate(model, judge, scoring.plan(model, judge, 1000))   # numbers of a model's images
"""

from jdiff.scoring.judge import Judge, judge, key_of, reading
from jdiff.scoring.plan import Plan, plan
from jdiff.scoring.result import Result
from jdiff.scoring.run import evaluate, score_files

__all__ = ["Judge", "Plan", "Result", "evaluate", "judge", "key_of", "plan", "reading", "score_files"]
