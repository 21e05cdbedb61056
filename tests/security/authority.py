"""A certificate authority of a test's own, by the command openssl: real certificates, as a plant's would be."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """PEM files; the key is its owner's only."""

    certificate: Path
    key: Path


class Authority:
    """Makes certificates that its own `ca_file` vouches for."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self.ca_file = self._folder / "ca.pem"
        self._key = self._folder / "ca.key"
        self._openssl("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.ca_file, "-subj", f"/CN={name}")

    def certificate(self, common_name: str, *, names: str = "", days: int = 2) -> Certificate:
        """For this name; `names` as in subjectAltName (`DNS:localhost`), `days` below zero: it has expired."""
        made = Certificate(self._folder / f"{common_name}{days}.pem", self._folder / f"{common_name}{days}.key")
        request, more = made.key.with_suffix(".csr"), made.key.with_suffix(".ext")
        more.write_text(f"subjectAltName = {names}\n" if names else "basicConstraints = CA:FALSE\n")
        self._openssl("req", *_NEW_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={common_name}")
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca_file, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", str(days), "-extfile", more, "-out", made.certificate),
        )
        made.key.chmod(0o600)
        return made

    def _openssl(self, *words: str | Path) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self._folder)
