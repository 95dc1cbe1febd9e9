"""Training by a recipe. So far there is one curriculum, that of the embedded model (nano/)."""
