"""Meshes: as many devices as asked for, on automatic axes."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

import toolkit as tk


def test_all_devices_are_on_the_axis_data() -> None:
    mesh = tk.devices.mesh()
    assert mesh.axis_names == ("data",) and mesh.shape["data"] == 8 == jax.device_count()
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_axes_in_the_order_given_and_the_rest() -> None:
    mesh = tk.devices.mesh(data=-1, model=2)
    assert dict(mesh.shape) == {"data": 4, "model": 2} and mesh.axis_names == ("data", "model")
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert tk.devices.mesh(model=np.int64(2), data=4).axis_names == ("model", "data")


def test_a_small_mesh_takes_the_first_devices() -> None:
    assert list(tk.devices.mesh(data=3).devices.flat) == jax.devices()[:3]
    last = jax.devices()[4:]
    assert list(tk.devices.mesh(data=2, devices=last).devices.flat) == last[:2]
    assert list(tk.devices.mesh(devices=last).devices.flat) == last


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"data": 16}, "mesh(data=16) needs 16 devices, there are 8; on a CPU set XLA_FLAGS"),
        ({"data": 4, "model": 4}, "needs 16 devices, there are 8"),
        ({"data": -1, "model": 9}, "needs 9 devices, there are 8"),
        ({"data": -1, "model": -1}, "only one size may be -1: got `data` and `model`."),
        ({"data": 0}, "`data` must be an int of at least 1, or -1 for the rest: got 0."),
        ({"data": 4, "model": -2}, "`model` must be an int of at least 1"),
        ({"data": True}, "`data` must be an int of at least 1"),
        ({"data": 2.0}, "`data` must be an int of at least 1"),
        ({"data": -1, "model": 3}, "would leave 2 of 8 devices without work; write data=2"),
        ({"devices": []}, "needs 1 devices, there are 0"),
        ({"data": 2, "devices": jax.devices()[:1]}, "needs 2 devices, there are 1"),
    ],
)
def test_what_is_refused(sizes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        tk.devices.mesh(**sizes)
