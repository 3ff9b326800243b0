"""The names that arguments may take, the default first: ``made-fast --help`` shows them before NumPy is imported.

Each list is stated once, here. The kernels, which import nothing above them, have the first two beside their codes, in another
order; a test compares. Not here: checks (``arguments.py``), hyper-parameters (``training/hyper.py``).
"""

ACTIVATIONS = ("relu", "softplus", "tanh", "sigmoid", "softsign")
OPTIMIZERS = ("adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd")
BIAS_INITS = ("marginals", "zeros")
DATA_KINDS = ("auto", "binary", "table")
DEGREE_RULES = ("stratified", "uniform")
DIRECT_CONNECTIONS = ("output", "none", "all")
DTYPES = ("float32", "float64")
COLUMN_KINDS = ("binary", "categorical", "numeric", "ordered")
HANDLE_UNKNOWN = ("error", "rare")
HEADER = ("auto", "yes", "no")
METHODS = ("mode", "mean", "sample")
MISSING = ("marginal", "value")
ORDERINGS = ("random", "natural")
PRESETS = ("none", "best")
RESAMPLE = ("both", "order", "connectivity")
SCHEDULES = ("constant", "linear", "cosine")
SPLITS = ("train", "valid", "test")
WEIGHTS = ("equal", "em")
WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "orthogonal", "zeros")

N_WALKS = 256  # behind each answer about a row with missing entries that has to be estimated
TIME_BUDGET = 300.0  # seconds, of ``preset="best"``
MOST_POINTS = 256  # of a latent mixture
