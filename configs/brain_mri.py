"""Slices of brains in magnetic resonance at 128x128, grey: as knees (knee_mri.py says how volumes become images).

fastMRI's brain_multicoil_train and _val: 4,469 + 1,378 volumes of some 16 axial slices; terms as there.

    PATH/{train,val}/*.png

    python -m jdiff.main --config=configs/brain_mri.py --config.data.dir=PATH

A set with classes, such as one of tumours, lies as PATH/{Training,Testing}/CLASS/*.jpg and is trained by class with
--config.model.conditions="('label',)"; where it holds sagittal slices, which all look one way, add
--config.data.flip=False.
"""

from ml_collections import ConfigDict

from configs import knee_mri


def get_config() -> ConfigDict:
    config = knee_mri.get_config()
    config.data.flip = True  # of axial slices: a brain's halves are nearly mirror images
    return config
