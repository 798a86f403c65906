"""Encoders exported to ONNX, optimised, quantised, checked against the eager model, and run by ONNX Runtime."""
