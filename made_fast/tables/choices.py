"""The names that arguments may take, each list stated once; the first name is the default.

Not here: checks (``arguments.py``), what the names mean (the docstrings of whatever takes them). It imports nothing, for
``made-fast --help`` shows the names at once. The kernels, which import nothing above them, state the first two in their own
order, beside the codes; a test compares.
"""

__all__ = [
    "ACTIVATIONS", "DEGREE_RULES", "DIRECT_CONNECTIONS", "DTYPES", "HEADER", "METHODS", "OPTIMIZERS", "ORDERINGS", "RESAMPLE",
    "SCHEDULES", "SPLITS", "WEIGHTS", "WEIGHT_INITS",
]  # fmt: skip

ACTIVATIONS = ("relu", "softplus", "tanh", "sigmoid", "softsign")
OPTIMIZERS = ("adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd")
DEGREE_RULES = ("stratified", "uniform")
DIRECT_CONNECTIONS = ("none", "output", "all")
DTYPES = ("float32", "float64")
HEADER = ("auto", "yes", "no")
METHODS = ("mode", "mean", "sample")
ORDERINGS = ("random", "natural")
RESAMPLE = ("both", "order", "connectivity")
SCHEDULES = ("constant", "linear", "cosine")
SPLITS = ("train", "valid", "test")
WEIGHTS = ("equal", "em")
WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "orthogonal", "zeros")
