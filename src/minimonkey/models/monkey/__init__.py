"""Monkey: Qwen-VL's encoder with an adapter for each window of a large picture, its resampler, and Qwen-7B (arXiv 2311.06607)."""
