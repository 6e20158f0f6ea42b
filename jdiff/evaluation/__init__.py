"""Parts of evaluation: features of images, the reference, and numbers of the two (jdiff.scoring puts them together).

protocol     which features, how many images, which numbers
gather       images -> features and running moments, a batch at a time
classifier   a small network trained on the data's own labels, whose features need no pretrained weights
statistics   the reference: moments and some features, as one .npz
numbers      what a number is; distances, quality, copying: one number each
"""
