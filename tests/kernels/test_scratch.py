"""The poisoned allocator that all kernel tests run in: forgotten elements and writes outside are found."""

import pytest
import torch
from k15.kernels import scratch


def test_a_forgotten_element_is_a_nan_and_shapes_are_as_asked():
    x = scratch.empty((3, 5), torch.bfloat16, "cpu")
    assert x.shape == (3, 5) and x.is_contiguous() and x.isnan().all() and x.data_ptr() % 16 == 0
    assert scratch.empty((), torch.float32, "cpu").isnan() and scratch.empty(0, torch.int64, "cpu").numel() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8])
@pytest.mark.parametrize(("offset", "where"), [(-1, "before"), (6, "after")])
def test_a_write_outside_is_found(dtype, offset, where):
    with pytest.raises(AssertionError, match=f"wrote {where} its {dtype} tensor of 6 elements"):
        with scratch.poisoned():
            x = scratch.empty((2, 3), dtype, "cpu")
            x.as_strided((1,), (1,), x.storage_offset() + offset).fill_(7)
