from __future__ import annotations

import cv2
import keras
import numpy as np
import pytest

from glomtile.networks.layers import BilinearUpsample


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (9, 16)])
def test_bilinear_upsampling_is_opencvs(size):
    x = np.random.default_rng(0).normal(size=(*size, 3)).astype("float32")
    expected = cv2.resize(x, (2 * size[1], 2 * size[0]), interpolation=cv2.INTER_LINEAR)
    layer = BilinearUpsample()
    ours = keras.ops.convert_to_numpy(layer(x[None]))[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert layer.compute_output_shape((None, None, 4, 3)) == (None, None, 8, 3)
