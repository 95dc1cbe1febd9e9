"""The embedded model's own curriculum: rendered text, characters, attention supervision."""
