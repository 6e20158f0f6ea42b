"""The best settings of sampling for a number of denoiser calls, by an evaluation's own distance.

choices  which settings there are to try
ladders  free ladders and Karras ladders for this model, by its trajectories alone
trials   a setting -> its distance, kept as it comes
search   rounds of trials, each of fewer settings and more images; the last of fresh seeds
report   tuned.json, a table and a plot
"""
