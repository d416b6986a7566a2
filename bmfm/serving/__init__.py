"""A predictor behind HTTP: ``bodies`` of requests, ``batching`` of their examples across requests, ``app`` with the endpoints."""
