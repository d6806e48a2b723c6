"""The examples do what their pages say."""

import pathlib
import subprocess

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("folder", sorted(page.parent for page in EXAMPLES.glob("*/README.md")), ids=lambda it: it.name)
def test_an_example_prints_what_its_page_shows(folder, library, program, shell, tmp_path):
    page = (folder / "README.md").read_text()
    expected = page.split("```text\n")[1].split("```")[0]
    done = subprocess.run(
        [folder / f"{folder.name}.sh", tmp_path / "files"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "CLOUDSYNC_DIST": str(program.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected.strip()
