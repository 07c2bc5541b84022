"""LSTMs told plainly in NumPy, for the tests of what is built of them."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(p, direction, x, clip=0.0):
    """Outputs of one direction for a single sequence x [S, D], position after position; p of LstmLayer."""

    def clipped(x):
        return np.clip(x, -clip, clip) if clip else x

    recurrent = p["recurrent_kernel"][direction]
    h, c = np.zeros(recurrent.shape[0]), np.zeros(recurrent.shape[2])
    found = np.zeros((len(x), len(h)))
    for t in range(len(x)) if direction == 0 else reversed(range(len(x))):
        i, f, g, o = (
            x[t] @ p["input_kernel"][direction][:, gate] + h @ recurrent[:, gate] + p["bias"][direction][gate]
            for gate in range(4)
        )
        c = clipped(sigmoid(f) * c + sigmoid(i) * np.tanh(g))
        h = sigmoid(o) * np.tanh(c)
        if "projection_kernel" in p:
            h = clipped(h @ p["projection_kernel"][direction])
        found[t] = h
    return found
