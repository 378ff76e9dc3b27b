"""Triton kernels of fastresunet and their launchers, installed as ``fastresunet_kernels``."""
