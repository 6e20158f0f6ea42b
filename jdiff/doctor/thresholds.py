"""Every threshold of the doctor, and every bound on its work.

Unless another reason stands beside it, a threshold is fitted on CIFAR-10, Fashion-MNIST, scikit-learn's digits, Noto's
emoji, ISIC 2018 (photos and masks) and the CMP facades, whole and in random subsets of 50 to 150 records, of two
classes and of ten: no finding on clean data, and the faults planted in tests/test_doctor*.py found. A false alarm costs
more than a rare fault that is missed.
"""

# Classes and captions
UNBALANCED = 3.0  # times as large as the smallest class a class may be: random halves of small sets stay below
FEW_OF_CLASS = 10  # images that a class should have
SAME_CAPTION = 0.5  # share of images that may have the same caption
CAPTIONS_TOKENIZED = 20_000  # captions a tokenizer is fitted to, and whose tokens are counted: a bound on time

# Values, in units of the declared range
BEYOND = 1e-3  # outside the range: rounding of floats
USED = 0.5  # of the range that all images together should use
CONSTANT = 3.5 / 255  # contrast that is no picture: JPEG's rounding of one colour
UNIT = 1.01 / 255  # highest value of an image on a scale of 0 .. 1 among those of 0 .. 255
UNIT_USUAL = 0.2  # contrast of the median image beside which those on another scale stand out
SCALE_TIMES = 20.0  # times the median contrast that is another scale: 0 .. 255 beside 0 .. 1 is 255 times

# Copies: x a thumbnail less its mean over its norm, distance |x - y| = sqrt(2 - 2 correlation)
PLAIN = 0.01  # standard deviation of a thumbnail in [0, 1] with nothing to compare
MOST_PLAIN = 0.2  # share of such images that is the data's way
NEAR = 0.1  # distance within which images may be copies, as saved again as JPEG at quality 60
NEAR_COLOUR = 2.0  # times as far that coloured thumbnails may be: a dye tells two drawings apart
NEAR_OF_USUAL = 0.17  # and share of the usual distance to the NEAR_RANK-th nearest image: digits are all alike
NEAR_RANK = 10
NEAR_SAMPLE, NEAR_REFERENCES = 256, 20_000  # images whose neighbours tell what is usual, and among how many
NEAR_AXES, NEAR_NEIGHBOURS = 24, 16  # principal components, and candidates of an image
MOST_TURNED = 20_000  # images up to which turned copies are looked for: every way costs as much again
FEW_REPEATS = 0.05  # share of records whose image is there with other masks, that is meant: several annotators

# Outliers: distance to the FAR_RANK-th nearest image
FAR_RANK = 5
FAR_BEYOND = 4.5  # median deviations of its logarithm: a normal distribution has 3 of a million beyond
FAR_FEWEST = 50  # images that are ranked
FAR_JUDGED = 100  # images among which one is called far: of 640 random subsets of clean sets two, both of 60, have one
FAR_REFERENCES = 4000
EQUAL = 1e-3  # distance of images that differ by rounding
FARTHEST = 12  # images that are shown in any case

# Colours
GREY = 0.008  # mean of max - min over channels, in [0, 1], of an image without colour: two of 255 levels
MOST_GREY, FEW_GREY = 0.9, 0.3  # share of a grey group, and of one that is not: some photos have no colour
GROUP_FEWEST, MOST_GROUPS = 10, 1000  # images of a group; classes, folders and sizes that are judged

# Masks
MEANT = 0.2  # share of masks that may be empty, full or shared before that seems meant
COMMON = 0.05  # share of masks that a value must be in to stand for a class
MASK_CLASSES = 32  # values of a mask: more are a photo, or a mask saved as JPEG
FAINT_MASK = 0.2  # of the declared highest value: a mask of 0 and 1 declared as 0 .. 255
DRAWN = 100  # pixels inside, and outside, of a mask that nobody draws twice alike
SENSE = 0.95  # share of masks of one sense beside which another is odd
DARKER = 0.2  # correlation of photo and mask that tells whether masks mark what is darker
INVERTED_FEWEST = 20  # masks of which one is called inverted

# Advice
USUAL_SIGMA_DATA, USUAL_MEAN = 0.5, -1.2  # EDM's (arXiv 2206.00364, table 1), which belong together
LARGEST_SIDE = 128  # pixels a side of a first training
SMALL_SIDE = 64  # pixels a side that EDM's noise levels are meant for
# EDM's dropout (table 7: AFHQ, CIFAR-10, FFHQ) by number of images; below ImageNet's size it falls as they grow more.
DROPOUT = ((20_000, 0.25), (60_000, 0.13), (200_000, 0.05))
FEW_IMAGES, COPIED_IMAGES = 50, 5000  # training images that can only be learnt by heart; that long trainings copy
UNEVEN = 5.0  # times as large as the smallest class a class is where drawing evenly matters
BUCKETS, SAVED = 8, 0.1  # shapes to train in, and the share of pixels that they must keep beyond the best single one
RESIZED = 500  # records read again and resized to measure sigma_data: a bound on time

# What is kept of a record
BLOCK = 128  # records between two steps of the progress bar
BINS, HISTOGRAM_SIDE = 64, 64  # of the histogram; pixels of a row and of a column in it
FAINT = 0.03  # standard deviation of a grey thumbnail in [0, 1] below which an image may be of one colour
MOST_VALUES = 64  # values of a mask that are kept
DETAIL, COARSE = 16, 8  # sides of the grey and of the coloured thumbnail
MOST_PIXELS = 4 << 20  # of a picture in moments and thumbnails: floats take memory
MOST_OPENED = 5000  # files whose format is read
