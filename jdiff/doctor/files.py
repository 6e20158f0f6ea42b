"""What images were in their files, before they were decoded."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

MOST_OPENED = 5000


def modes(names: Sequence[str]) -> dict[str, int]:
    """ "JPEG RGB" -> how many of the files `names`, of at most MOST_OPENED of them; {} where names are no files. Only
    their heads are read.
    """
    found: Counter[str] = Counter()
    for index in np.sort(np.random.default_rng(0).permutation(len(names))[:MOST_OPENED]):
        try:
            with Image.open(names[index]) as image:
                found[f"{image.format} {image.mode}"] += 1
        except Exception:  # no image of a file's own: an archive's member, or what the check for readability names
            continue
    return dict(found.most_common())
