"""Benches on tables of any columns against what people use now: anomalies, imputation, selectivity, synthetic rows, speed."""
