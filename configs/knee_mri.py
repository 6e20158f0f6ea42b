"""Magnetic resonance slices of knees at 128x128, grey, unconditional.

fastMRI (Zbontar et al., arXiv 1811.08839; fastmri.med.nyu.edu): 973 + 199 volumes of some 36 coronal slices of 320x320,
on application; NYU's agreement allows internal research and teaching, without redistribution. Convert the volumes of
knee_multicoil_train and _val, which share no patient, to grey images once (`pip install h5py`):

    import h5py
    import numpy as np
    from pathlib import Path
    from PIL import Image

    for split in ("train", "val"):
        Path("PATH", split).mkdir(parents=True)
        for file in sorted(Path(f"multicoil_{split}").glob("*.h5")):
            volume = h5py.File(file)["reconstruction_rss"][:]
            for i, image in enumerate(np.rint(255 * volume / volume.max()).astype(np.uint8)):
                Image.fromarray(image).save(f"PATH/{split}/{file.stem}_{i:02}.png")

which gives

    PATH/{train,val}/*.png

    python -m jdiff.main --config=configs/knee_mri.py --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import folder


def get_config() -> ConfigDict:
    config = folder.get_config()
    config.data.image_size = 128
    config.data.channels = 1
    config.data.flip = True  # a mirrored left knee is a right knee; upside down it is not a knee
    config.model.conditions = ()
    config.model.sigma_data = 0.3  # mostly dark; an estimate: --mode=inspect measures it
    config.objective.mean = -0.5  # -1.2 + ln(128 / 64), as in celeb_a_hq.py
    config.network.attention_levels = (3,)  # 16x16
    config.train.images = 10_000_000
    config.sample.num_images = 36
    config.sample.batch_size = 36
    return config
