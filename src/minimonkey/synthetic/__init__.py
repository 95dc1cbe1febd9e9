"""Rendered documents in which the place of every character is known, with questions and their answers."""
