"""Using a trained detector: predictor, photos and videos, results, pictures."""
