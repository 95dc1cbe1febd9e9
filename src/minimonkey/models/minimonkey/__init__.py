"""Mini-Monkey and InternVL2: InternVL of transformers, with tiles that are encoded once and image tokens that may go."""
