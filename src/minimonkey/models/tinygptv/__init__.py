"""TinyGPT-V: EVA ViT-g, the Q-Former of BLIP-2, two projections, and Phi-2 with further norms and low-rank updates."""
