"""Random functional networks for the pruner."""

import keras
import pytest
from hypothesis import strategies as st

L = keras.layers


class Builder:
    """Grows a network by drawn steps; every tensor stays at hand, so that later steps join and share what they like."""

    def __init__(self, draw):
        self.draw = draw
        self.images = keras.Input((8, 8, 3), name="Input")
        self.tensors = [self._conv(self.images, 6)]

    def grow(self):
        steps = (
            self.conv,
            self.conv,
            self.depthwise,
            self.norm,
            self.activation,
            self.add,
            self.nested_add,
            self.concat,
            self.padded_pool,
            self.excite,
            self.shared,
            self.resize,
        )
        for _ in range(self.draw(st.integers(3, 9))):
            self.draw(st.sampled_from(steps))()
        outputs = [self._conv(x, 4) for x in self.tensors[-2:]]
        return keras.Model(self.images, {f"out{index}": x for index, x in enumerate(outputs)})

    def pick(self):
        return self.draw(st.sampled_from(self.tensors))

    def like(self, x):
        """A tensor of the shape of `x`, made by a convolution of its own."""
        other = self.draw(st.sampled_from([t for t in self.tensors if t.shape[1:3] == x.shape[1:3]]))
        return other if other.shape == x.shape and other is not x else self._conv(other, x.shape[-1])

    def _conv(self, x, filters, kernel=1):
        return L.Conv2D(filters, kernel, padding="same", use_bias=self.draw(st.booleans()))(x)

    def conv(self):
        self.tensors.append(self._conv(self.pick(), self.draw(st.integers(3, 7)), self.draw(st.sampled_from((1, 3)))))

    def depthwise(self):
        self.tensors.append(L.DepthwiseConv2D(3, padding="same")(self.pick()))

    def norm(self):
        self.tensors.append(L.BatchNormalization()(self.pick()))

    def activation(self):
        kinds = (L.ReLU, lambda: L.Activation("silu"), L.LeakyReLU, lambda: L.Dropout(0.5))
        self.tensors.append(self.draw(st.sampled_from(kinds))()(self.pick()))

    def add(self):
        x = self.pick()
        join = self.draw(st.sampled_from((L.Add, L.Multiply, L.Maximum, L.Average, L.Subtract)))
        self.tensors.append(join()([x, self.like(x)]))

    def nested_add(self):
        x = self.pick()
        y = L.Add()([x, self.like(x)])
        self.tensors.append(L.Add()([y, self.like(x), x]))

    def concat(self):
        x = self.pick()
        others = [t for t in self.tensors if t.shape[1:3] == x.shape[1:3]]
        y = L.Concatenate()([x, *self.draw(st.lists(st.sampled_from(others), min_size=1, max_size=2))])
        self.tensors.append(y)

    def padded_pool(self):
        x = self.pick()
        pool = self.draw(st.sampled_from((L.MaxPooling2D, L.AveragePooling2D)))
        self.tensors.append(pool(3, strides=1)(L.ZeroPadding2D(1)(x)))

    def excite(self):
        x = self.pick()
        y = L.Reshape((1, 1, -1))(L.GlobalAveragePooling2D()(x))
        y = L.Conv2D(x.shape[-1], 1, activation="sigmoid")(self._conv(y, 3))
        self.tensors.append(L.Multiply()([x, y]))

    def shared(self):
        """One convolution and one BN on two tensors."""
        x = self.pick()
        y = self.like(x)
        conv, norm = L.Conv2D(5, 3, padding="same", use_bias=False), L.BatchNormalization()
        self.tensors += [norm(conv(x)), norm(conv(y))]

    def resize(self):
        """There and back: a transposed convolution, enlarging, cropping, pooling."""
        filters, bias = self.draw(st.integers(3, 6)), self.draw(st.booleans())
        x = L.Conv2DTranspose(filters, 2, strides=2, use_bias=bias)(self.pick())
        x = L.UpSampling2D(2)(L.Cropping2D(4)(x))
        self.tensors.append(L.MaxPooling2D(2)(x))


@pytest.fixture(scope="session")
def grow():
    """`grow(draw)`: a functional network by what hypothesis draws, called in the test: Keras has random numbers too."""
    return lambda draw: Builder(draw).grow()
