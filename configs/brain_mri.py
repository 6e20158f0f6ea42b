"""Magnetic resonance slices of brains at 128x128, grey: as knees (knee_mri.py converts volumes to images).

fastMRI's brain_multicoil_train and _val: 4,469 + 1,378 volumes of some 16 axial slices; terms as there.

    PATH/{train,val}/*.png

    python -m jdiff.main --config=configs/brain_mri.py --config.data.dir=PATH

A data set with classes, such as one of tumours, has the layout PATH/{Training,Testing}/CLASS/*.jpg and is trained by
class with --config.model.conditions="('label',)". If it holds sagittal slices, which all face one way, add
--config.data.flip=False.
"""

from ml_collections import ConfigDict

from configs import knee_mri


def get_config() -> ConfigDict:
    config = knee_mri.get_config()
    config.data.flip = True  # axial slices: a brain's halves are nearly mirror images
    return config
