"""Maps the top-level folder ``kernels/`` to the import package ``fastresunet_kernels``; all metadata is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["fastresunet", "fastresunet.*"]),
        *(package.replace("kernels", "fastresunet_kernels", 1) for package in find_packages(include=["kernels", "kernels.*"])),
    ],
    package_dir={"fastresunet_kernels": "kernels"},
    package_data={"fastresunet": ["py.typed"], "fastresunet_kernels": ["py.typed"]},
)
