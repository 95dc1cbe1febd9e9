"""transformers' own tests as a package, `peer_suite`: where they lie, and what stands in for the parts that aren't there.

The source package of transformers has the mixins (`test_*_common.py`), but neither the tests of generation and exporters nor the
script that fetches files. `make test-peer` unpacks it into build/peer; PEER_TESTS may name the `tests` folder of a whole checkout.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "build" / "peer" / "tests"
"""The tests of the source package."""
CHECKOUT = Path(os.environ["PEER_TESTS"]) if os.environ.get("PEER_TESTS") else None
"""The tests of a whole checkout, if there is one."""
PACKAGE = "peer_suite"


def _package() -> types.ModuleType:
    """The folders of tests as one package; those of the source package, which are of the installed release, come first."""
    if not (SOURCE / "test_modeling_common.py").is_file():
        raise FileNotFoundError(f"{SOURCE}: no tests of transformers there; run `make test-peer`, which fetches them")
    (SOURCE / "__init__.py").touch()  # one of the modules reads it, and the source package leaves it out
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(SOURCE), *([str(CHECKOUT)] if CHECKOUT else [])]
    return package


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor is its package
        return False


def _stand_in(name: str, **contents: object) -> bool:
    """Put a module of these contents in place of one that isn't there. Whether there was need to."""
    if _is_there(name):
        return False
    for missing in (name.rpartition(".")[0], name):
        if not _is_there(missing):
            sys.modules[missing] = types.ModuleType(missing)
            sys.modules[missing].__path__ = []
            sys.modules[missing].__spec__ = importlib.machinery.ModuleSpec(missing, None)
    vars(sys.modules[name]).update(contents)
    return True


sys.modules[PACKAGE] = _package()
# A picture of ours in place of those that transformers fetches; there is nothing else that it would be asked for here.
fetching = types.ModuleType("fetch_hub_objects_for_ci")
fetching.url_to_local_path = lambda url, *_, **__: str(ROOT / "examples" / "receipt.png")
sys.modules["fetch_hub_objects_for_ci"] = fetching


_stand_in(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
_stand_in(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs={})
NO_GENERATION = type("GenerationTesterMixin", (), {})
HAS_GENERATION_TESTS = not _stand_in(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=NO_GENERATION)
"""Whether the tests of generation are there."""
if CHECKOUT is not None and not HAS_GENERATION_TESTS:
    raise FileNotFoundError(f"PEER_TESTS={CHECKOUT}: no generation/test_utils.py there; expected the tests folder of a checkout")


def mixins(name: str) -> types.ModuleType:
    """One of the modules of transformers' tests, such as "test_modeling_common"."""
    return importlib.import_module(f"{PACKAGE}.{name}")
