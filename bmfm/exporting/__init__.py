"""Trained models for other runtimes: ONNX, torch.export, stock transformers; and ONNX models as predictors.

``network`` is a model as one graph over padded rows; ``formats`` writes it, ``parity`` holds what was written against the model, ``export`` puts
both together for ``python -m bmfm.export``; ``onnx`` is a `Predictor` that runs through onnxruntime.
"""
