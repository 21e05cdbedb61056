"""The README's own route does what the README says: its files are written, its commands are run."""

import os
from pathlib import Path

from tests.project.tutorial import README, files, project_copy, run_again, section, without_counts


def test_the_route_of_the_readme_does_what_the_readme_says(tmp_path: Path) -> None:
    readme = README.read_text(encoding="utf-8")
    tutorial = section(readme)
    project_copy(tmp_path)
    for file in files(tutorial):
        file.put_into(tmp_path)

    done = run_again(tutorial, tmp_path)

    if "PLANTBUS_WRITE_README" in os.environ:  # after a deliberate change: read the difference before committing it
        README.write_text(readme.replace(tutorial, done), encoding="utf-8")
        tutorial = done
    assert without_counts(done) == without_counts(tutorial)
    assert "exit code" not in done


def test_the_route_of_the_readme_touches_what_the_readme_names() -> None:
    touched = [file.path for file in files(section(README.read_text(encoding="utf-8")))]

    assert touched == [
        "bus.toml",
        "transformers/lims/sampling.py",
        "transformers/lims/values.toml",
        "routes/sampling.py",
        "tests/project/golden/lims.sampling.sample_request/message.toml",
        "tests/project/golden/lims.sampling.sample_request/resin.in",
        "tests/project/golden/lims.sampling.sample_request/resin.out",
        "tests/project/test_sampling.py",
    ]
