"""Which addresses no connector calls."""

from __future__ import annotations

import pytest

from bus.connectors.addresses import is_link_local

REFUSED = ["169.254.169.254", "100.100.100.200"]
FORMS = ["{}", "::ffff:{}", "::ffff:0:{}", "::{}", "64:ff9b::{}", "64:ff9b:1::{}"]


@pytest.mark.parametrize("address", REFUSED)
@pytest.mark.parametrize("form", FORMS)
def test_link_local_and_metadata_addresses_are_not_called_in_any_form_of_ipv6(form: str, address: str) -> None:
    assert is_link_local(form.format(address))


@pytest.mark.parametrize(
    "address", ["fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fd00:ec2::254%1", "2002:a9fe:a9fe::", "2002:a9fe:a9fe::1"]
)
def test_link_local_and_metadata_addresses_of_ipv6_are_not_called(address: str) -> None:
    assert is_link_local(address)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "100.100.100.201"])
def test_addresses_of_a_plant_are_called(form: str, address: str) -> None:
    assert not is_link_local(form.format(address))


@pytest.mark.parametrize("address", ["::1", "fd00:ec2::1", "2002:a00:1::", "2001:db8::a9fe:a9fe", "mes.plant"])
def test_addresses_and_names_that_only_look_alike_are_called(address: str) -> None:
    assert not is_link_local(address)
