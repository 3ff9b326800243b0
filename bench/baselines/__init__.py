"""Other density models of binary data, to compare MADE with: small estimators, each with its source.

``fit(X, X_val)``, ``score_samples(X)`` in nats, ``score(X)``, ``sample(n)``, as MADE has them. ``log_likelihood`` says what
``score_samples`` gives: "exact", "estimate" or "lower bound". Not for users of the package: baselines of ``bench.paper``.
"""
