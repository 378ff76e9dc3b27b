"""Triton kernels of fastresunet, installed as ``fastresunet_kernels``; none is here yet."""
