"""The command ``generate``. The name ``mlx_mobilellm.generate`` is the function, bound by the package."""
