"""A distance of each class by itself."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from jdiff.common.errors import UserError


def per_class(
    distance: Callable[[np.ndarray, np.ndarray], float],
    generated: Float[np.ndarray, "n _d"],
    labels: Int[np.ndarray, " _n"],
    reference: Float[np.ndarray, "m _d"],
    reference_labels: Int[np.ndarray, " _m"],
) -> dict[int, float]:
    """{class: distance(generated rows of it, reference rows of it)} over the classes of the generated images.

    Raises UserError where `distance` does, naming the class, and for a class that the reference lacks. Counts differ
    between classes and from the whole set's, so biased distances compare only at equal counts.
    """
    for rows, of in ((generated, labels), (reference, reference_labels)):
        if len(rows) != len(of):
            raise UserError(f"{len(rows)} rows of features have {len(of)} labels; give one label a row")
    if missing := sorted(set(np.unique(labels).tolist()) - set(np.unique(reference_labels).tolist())):
        raise UserError(f"the reference has no images of class {missing[0]}, which was generated")
    distances = {}
    for label in np.unique(labels).tolist():
        try:
            distances[label] = float(distance(generated[labels == label], reference[reference_labels == label]))
        except UserError as error:
            raise UserError(f"class {label}: {error}") from error
    return distances
