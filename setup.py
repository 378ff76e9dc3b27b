"""Installs the folder ``kernels/`` as ``fastresunet_kernels``; the metadata is in pyproject.toml."""

from setuptools import find_packages, setup

kernels = [
    name.replace("kernels", "fastresunet_kernels", 1) for name in find_packages(include=["kernels", "kernels.*"])
]

setup(
    packages=[*find_packages(include=["fastresunet", "fastresunet.*"]), *kernels],
    package_dir={"fastresunet_kernels": "kernels"},
    package_data={
        "fastresunet": ["py.typed", "weights/*.safetensors", "weights/*.md", "splits/*/*.txt"],
        "fastresunet_kernels": ["py.typed"],
    },
)
