"""Install the folders of the repository root as the package ``moondream_beam``."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NAME = "moondream_beam"
FLOORS = ("models", "transforms", "pipelines")
# Every folder of the three floors that holds an __init__.py.
FOLDERS = sorted(init.parent.as_posix() for floor in FLOORS for init in Path(floor).rglob("__init__.py"))
PACKAGE_DIR = {NAME: ".", **{f"{NAME}.{folder.replace('/', '.')}": folder for folder in FOLDERS}}


class BuildRoot(build_py):
    """Package only ``__init__.py`` of the modules in the root, and not ``setup.py``."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return (package, module, path of the file) for each module of one package."""
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if package != NAME or module[1] == "__init__"]


setup(
    package_dir=PACKAGE_DIR,
    packages=list(PACKAGE_DIR),
    package_data={
        NAME: ["py.typed"],
        f"{NAME}.pipelines": ["providers.yaml"],
        f"{NAME}.pipelines.display.report_page": ["*.html", "*.css", "*.js"],
        f"{NAME}.models.tiny": ["config.json", "tokenizer.json", "model.safetensors", "README.md"],
    },
    cmdclass={"build_py": BuildRoot},
)
