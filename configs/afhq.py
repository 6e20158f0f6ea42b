"""AFHQ, faces of animals at 64x64, by class: EDM's recipe for AFHQv2 (Karras et al., arXiv 2206.00364, table 7: FFHQ's
with more dropout), whose model is unconditional; here classes are given, and a tenth of them dropped for guidance.

Animal Faces-HQ (Choi et al., arXiv 1912.01865; github.com/clovaai/stargan-v2, `download.sh afhq-dataset` or
`afhq-v2-dataset`): cats, dogs and wild animals, some 16,000 pictures of 512x512; CC BY-NC 4.0. As unzipped:

    PATH/{train,val}/{cat,dog,wild}/*.jpg        version 2: test for val, and .png

    python -m jdiff.main --config=configs/afhq.py --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import ffhq


def get_config() -> ConfigDict:
    config = ffhq.get_config()
    config.model.conditions = ("label",)
    config.network.dropout = 0.25
    config.sample.num_images = 63  # 21 of each
    config.sample.guidance_scale = 1.5
    return config
