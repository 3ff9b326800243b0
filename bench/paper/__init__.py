"""The paper's tables and figures, made by this engine: ``python -m bench.paper TABLE``, see ``__main__.py``."""
