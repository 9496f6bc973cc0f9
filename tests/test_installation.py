from __future__ import annotations

import importlib
import os
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def package_folders() -> list[Path]:
    """Where the packages that go into the wheel lie in the checkout."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    return [CHECKOUT / name for name in wheel["packages"] if (CHECKOUT / name / "__init__.py").is_file()]


def imported_from(name: str) -> Path:
    file = importlib.import_module(name).__file__
    assert file is not None
    return Path(file).parent.resolve()


def test_all_packages_come_from_one_installation() -> None:
    folders = package_folders()
    assert {"ugatit_batch", "ugatit_training", "ugatit_engines"} <= {folder.name for folder in folders}
    places = {folder.name: imported_from(folder.name) for folder in folders}
    if os.environ.get("UGATIT_BATCH_TEST_WHEEL"):
        assert {place.parent.name for place in places.values()} == {"site-packages"}
        assert len({place.parent for place in places.values()}) == 1
    else:
        in_checkout = all(places[folder.name] == folder.resolve() for folder in folders)
        in_wheel = {place.parent.name for place in places.values()} == {"site-packages"}
        assert in_checkout or in_wheel
