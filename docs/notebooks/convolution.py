# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The arithmetic of convolution
#
# What a convolution computes, how large its output is, how many weights it has, and what it costs: first by hand, then
# by the layers that the networks of this package are made of.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError
from cnn_jax.display import plots
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv
from experiments.lectures import dilation, feedforward, layers, pooling, sizes
from experiments.lectures.convolution import EDGE, FILTERS, IMAGE

# %% [markdown]
# ## A filter slides over an image
#
# Each output is the sum of nine products: the filter's weights with the pixels below it. The first one by hand, then
# all sixteen by a convolution layer.

# %%
image, vertical = np.array(IMAGE), np.array(FILTERS["vertical"])
print("first output by hand:", (image[:3, :3] * vertical).sum())
layers.picture({"image": image, "filter": vertical, "map": layers.convolve(image, vertical)}, "6x6 under 3x3 is 4x4")

# %% [markdown]
# The filter subtracts what is to the right from what is to the left, so it answers where the image is brighter on the
# left. On an image with one edge it answers at that edge only. The horizontal filter sees nothing there. Sobel's and
# Scharr's filters give more weight to the middle row.

# %%
answers = {name: layers.convolve(EDGE, kernel) for name, kernel in FILTERS.items()}
layers.picture({"image": EDGE} | answers, "One vertical edge under four filters")

# %% [markdown]
# ## How large is the output?
#
# A filter of $F$ pixels with stride $S$ on $W$ pixels with $P$ zeros on each side has $(W - F + 2P) / S + 1$ outputs.
# That is not always a whole number: a filter of 3 with stride 3 does not fit 7 pixels.

# %%
for stride in (1, 2, 3):
    try:
        print(f"7 pixels, filter 3, stride {stride}: {sizes.output(7, 3, stride)} outputs")
    except UserError as error:
        print(f"7 pixels, filter 3, stride {stride}: {error}")
print("without padding, 5x5 filters leave of 32 pixels:", " -> ".join(map(str, sizes.shrinking(32, 5))))

# %% [markdown]
# ## Channels, parameters and multiply-accumulates
#
# A filter extends over all channels of its input, and each filter makes one channel of the output. Ten 5x5 filters on
# a color image have $10 \cdot (5 \cdot 5 \cdot 3 + 1)$ parameters. The layer itself says the same:

# %%


def conv(*arguments):
    return Conv(*arguments, init="he_fan_in", rngs=InitKeys(jax.random.key(0)))


(row,) = layer_table(lambda: conv(3, 10, 5, 1, 2), (32, 32, 3))  # input, output, kernel, stride, padding
print(f"{row.output_shape}, {row.parameters} parameters, {row.macs:,} multiply-accumulates")
assert row.parameters == 10 * (5 * 5 * 3 + 1)

# %% [markdown]
# ## A 1x1 convolution makes a 5x5 one cheap
#
# 32 filters of 5x5 on 192 channels are expensive. With 16 channels in between, made by a 1x1 convolution, the same map
# size costs a tenth. GoogLeNet is built of this.

# %%
(direct,) = layer_table(lambda: conv(192, 32, 5, 1, 2), (28, 28, 192))
(squeeze,) = layer_table(lambda: conv(192, 16, 1), (28, 28, 192))
(expand,) = layer_table(lambda: conv(16, 32, 5, 1, 2), (28, 28, 16))
print(f"direct: {direct.macs:,} MACs; with 1x1: {squeeze.macs + expand.macs:,} MACs")
print(f"{direct.macs / (squeeze.macs + expand.macs):.2f} times fewer")
figure, axis = plots.subplots(1, figsize=(6, 1.8))
axis.barh("direct", direct.macs / 1e6, label="5x5 on 192 channels")
axis.barh("with 1x1", squeeze.macs / 1e6, label="1x1 on 192 channels")
axis.barh("with 1x1", expand.macs / 1e6, left=squeeze.macs / 1e6, label="5x5 on 16 channels")
axis.set(xlabel="million MACs", title="32 filters on 28x28x192")
axis.invert_yaxis()
axis.legend(fontsize=8)
figure

# %% [markdown]
# ## A convolution is a linear layer with few weights
#
# A linear layer from 36 pixels to 16 outputs has 576 weights. The convolution above is such a layer in which 432
# weights are zero and the other 144 are nine numbers that repeat.

# %%
kernel = np.arange(1, 10).reshape(3, 3)
matrix = feedforward.matrix(kernel, 6)
assert np.array_equal((matrix.T @ image.ravel()).reshape(4, 4), layers.convolve(image, kernel))
print(matrix.size, "weights,", np.count_nonzero(matrix), "not zero,", len(set(matrix[matrix != 0])), "different")
layers.picture({"W^T": matrix.T}, "One row for each output", numbers=False)

# %% [markdown]
# ## What an output sees
#
# Four 3x3 convolutions see 9 pixels in each direction. With the dilation rates 1, 2, 4 and 8 they see 31, with as many
# weights. The pictures show which pixels have an influence on the output in the middle, found by the gradient.

# %%
for rates in ((1, 1, 1, 1), (1, 2, 4, 8)):
    print(f"rates {rates}: {[dilation.field(rates[:i]) for i in range(1, 5)]} pixels")
layers.picture(
    {f"rates {rates}": dilation.seen(rates) for rates in ((1,), (1, 2), (1, 2, 4), (1, 1, 1, 1))},
    "Pixels that the middle output depends on",
    numbers=False,
)

# %% [markdown]
# ## Pooling
#
# A pool keeps the largest value of each window, or its mean. It has no weights.

# %%
layers.picture(
    {"image": pooling.IMAGE} | {kind: layers.pool(pooling.IMAGE, kind, 2, 2) for kind in ("max", "average")},
    "Windows of 2x2 with stride 2",
)

# %% [markdown]
# ## Nobody has to write a filter down
#
# Gradient descent finds it. It starts from zero and sees random images with their maps under the vertical filter, and
# never the filter itself.

# %%
images = jax.random.normal(jax.random.key(0), (64, 6, 6, 1))


def maps(kernel):
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


target = maps(jnp.asarray(vertical, jnp.float32)[:, :, None, None])


@jax.jit
def step(kernel):
    error, gradient = jax.value_and_grad(lambda kernel: jnp.mean((maps(kernel) - target) ** 2))(kernel)
    return kernel - 0.05 * gradient, error


learned, errors, snapshots = jnp.zeros((3, 3, 1, 1)), [], {}
for i in range(101):
    if i in (0, 3, 10, 100):
        snapshots[f"after {i} steps"] = np.round(learned[:, :, 0, 0], 2)
    learned, error = step(learned)
    errors.append(float(error))
print(f"mean squared error: {errors[0]:.2f} at the start, {errors[-1]:.1e} after 100 steps")
layers.picture(snapshots, "A filter learned by gradient descent")
