"""Map the four top-level folders onto one import name; all metadata lives in pyproject.toml.

TOML cannot express this mapping without listing every sub-package by hand, so it is the one thing kept here.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "tbps_infer": "tbps_infer",
    "tbps_infer.export": "export",
    "tbps_infer.cli": "cli",
    "tbps_infer.benchmarks": "benchmarks",
}

PACKAGES = [
    name
    for package, folder in FOLDERS.items()
    for name in (package, *(f"{package}.{child}" for child in find_packages(folder)))
]

setup(
    packages=PACKAGES,
    package_dir=FOLDERS,
    include_package_data=False,  # what follows is all; the data's folders are no packages
    package_data={
        "tbps_infer": ["py.typed", "assets/**/*", "serve/static/*"],
    },
)
