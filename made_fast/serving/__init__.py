"""The server: models behind HTTP, over ``inference`` and below. It needs the extra ``[serve]``."""
