"""Segmentation of retinal vessels, DRIVE, at 512x512: the mask is modelled, the photo conditions it.

40 photos of the fundus, 565x584 pixels, 20 for training and 20 for testing (Staal et al. 2004, Ridge-based vessel
segmentation; drive.grand-challenge.org; free for research and education, no redistribution). As it is unzipped:

    PATH/training/images/*_training.tif
    PATH/training/1st_manual/*_manual1.gif
    PATH/test/images/*_test.tif
    PATH/test/1st_manual/*_manual1.gif

    python -m jdiff.main --config=configs/drive.py --config.data.dir=PATH

The site no longer gives masks of the test photos: without test/1st_manual a fifth of the training photos is held out.
Vessels are a few pixels wide and vanish at smaller sizes. Published U-Nets reach a Dice over pixels of about 0.81 (Alom
et al., arXiv 1802.06955), within the field of view of the originals; the numbers of --mode=evaluate are over the whole
picture at 512x512. Not run here.
"""

from ml_collections import ConfigDict

from configs import isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.data.folders = ("images", "1st_manual")
    config.data.suffixes = ("_training|_test", "_manual1")
    config.data.holdout = 0.2
    config.data.image_size = 512
    config.data.flip = True  # a mirrored left eye is a right eye
    config.data.flip_vertical = True
    config.model.sigma_data = 0.56  # 2 sqrt(p (1 - p)), vessels cover p = 8.6 % of the pixels
    config.objective.mean = 1.4  # ln(512 / 128): neighbouring pixels tell the same. Vessels are thin: no more
    config.objective.std = 1.2
    config.network.channels = 32
    config.network.dropout = 0.2  # few images
    config.train.images = 200_000
    config.train.batch_size = 8
    config.sample.num_images = 8
    config.sample.batch_size = 8
    return config
