"""What is done with transformers' decoder layers: running them, attention, rotary positions, KV cache."""
