"""Which images to label next: those that the model is unsure of, and that tell it different things.

The measure of both at once is the gradient that a label would bring to the weights of the head (BADGE: Ash et al. 2020, "Deep
batch active learning by diverse, uncertain gradient lower bounds"). With the model's own answer in the place of the label it is
the outer product of r = p - onehot(answer), large where the model is unsure, and the features x. Nothing of K x D is made for it: two
such products have the inner product (r_i . r_j)(x_i . x_j).
"""

import numpy as np
from numpy.typing import NDArray

from regraft.values import FloatArray
