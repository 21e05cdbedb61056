"""Secrets: resolved from references, never printed."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest

from bus.errors import ConfigurationError, SecretUnavailable
from bus.model.secret import Secret
from bus.secret_references import resolve_secret

VALUE = "correct horse"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "erp.password"
    path.write_text(f"{VALUE}\n")
    path.chmod(0o600)
    return path


def test_a_secret_is_not_printed() -> None:
    secret = Secret("env:X", VALUE)

    assert f"{secret} {secret!r} {[secret]} {secret!s:>5}".count(VALUE) == 0
    assert str(secret) == "***"
    assert secret.reveal() == VALUE


@pytest.mark.parametrize("serialise", [pickle.dumps, copy.deepcopy])
def test_a_secret_is_not_serialised(serialise: object) -> None:
    assert callable(serialise)
    with pytest.raises(TypeError):
        serialise(Secret("env:X", VALUE))


def test_secrets_are_equal_by_their_value() -> None:
    assert Secret("env:X", VALUE) == Secret("file:y", VALUE)
    assert Secret("env:X", VALUE) != Secret("env:X", "rotated")
    assert Secret("env:X", VALUE) != VALUE


def test_an_environment_variable_is_read_at_every_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERP_PASSWORD", VALUE)
    before = resolve_secret("env:ERP_PASSWORD", root=tmp_path)
    monkeypatch.setenv("ERP_PASSWORD", "rotated")

    assert before.reveal() == VALUE
    assert resolve_secret("env:ERP_PASSWORD", root=tmp_path).reveal() == "rotated"


def test_a_file_is_read_below_the_project_or_at_its_absolute_path(file: Path) -> None:
    assert resolve_secret("file:erp.password", root=file.parent).reveal() == VALUE
    assert resolve_secret(f"file:{file}", root=Path("/nowhere")).reveal() == VALUE


@pytest.mark.parametrize(
    ("content", "value"), [("a", "a"), ("a\n", "a"), ("a\n\n", "a\n"), ("a\r\n", "a"), (" a \n", " a ")]
)
def test_one_trailing_newline_is_cut_off(file: Path, content: str, value: str) -> None:
    file.write_bytes(content.encode())

    assert resolve_secret(f"file:{file}", root=file.parent).reveal() == value


def test_a_file_everybody_can_read_is_refused_with_the_command_that_helps(file: Path) -> None:
    file.chmod(0o644)

    with pytest.raises(ConfigurationError, match=f"mode 0644.*chmod 600 {file}"):
        resolve_secret(f"file:{file}", root=file.parent)


@pytest.mark.parametrize("reference", ["env:PLANTBUS_NOT_SET", "env:PLANTBUS_EMPTY", "file:missing", "file:."])
def test_a_reference_that_leads_nowhere_is_named(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTBUS_EMPTY", "")

    with pytest.raises(ConfigurationError, match=reference):
        resolve_secret(reference, root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_file_without_a_secret_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"erp\.password"):
        resolve_secret("file:erp.password", root=file.parent)


@pytest.mark.parametrize("reference", [VALUE, "env:", "file:", "", "vault:secret/erp"])
def test_a_secret_written_where_its_reference_belongs_is_refused_and_not_repeated(
    reference: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_secret(reference, root=tmp_path)

    assert VALUE not in str(caught.value)
    assert "env:NAME" in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(SecretUnavailable, match="no ordinary file"):
        resolve_secret("file:pipe", root=tmp_path)


def test_a_file_that_everybody_may_change_is_refused(file: Path) -> None:
    file.chmod(0o602)

    with pytest.raises(SecretUnavailable, match="chmod 600"):
        resolve_secret("file:erp.password", root=file.parent)


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(20 * 2**30)  # sparse
    (tmp_path / "huge").chmod(0o600)

    with pytest.raises(SecretUnavailable, match="larger than"):
        resolve_secret("file:huge", root=tmp_path)


def test_a_name_no_file_can_have_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailable, match="no file can have this name"):
        resolve_secret("file:a\0b", root=tmp_path)


def test_a_variable_that_is_no_text_is_refused_and_not_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "ERP_PASSWORD", os.fsdecode(b"M\xfcller"))

    with pytest.raises(SecretUnavailable, match="not UTF-8 text") as caught:
        resolve_secret("env:ERP_PASSWORD", root=tmp_path)

    assert "ller" not in str(caught.value)
