"""MobileLLM language models, layer sharing included, on MLX."""
