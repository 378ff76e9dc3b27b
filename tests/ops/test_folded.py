"""The registration of the folded network's operations."""

from __future__ import annotations

import pytest
import torch

from tests.folded_cases import NAMES, folded_case


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    operation, operands = folded_case(name)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    torch.library.opcheck(getattr(torch.ops.fastresunet, operation).default, (*operands, "torch"), test_utils=checks)
