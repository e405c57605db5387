"""From a trained model to what runs without this package: ONNX, torch.export, and a folder as timm reads it."""
