"""Scores of answers, by the rules of the published benchmarks."""
