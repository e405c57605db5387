"""From a trained model and new images to predictions, and to files of them."""
