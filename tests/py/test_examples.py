"""The examples do what their pages say."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[2]


def test_the_walkthrough_prints_what_its_page_shows(library, program, shell, tmp_path):
    folder = ROOT / "examples" / "walkthrough"
    page = (folder / "README.md").read_text()
    expected = page.split("```text\n")[1].split("```")[0]
    done = subprocess.run(
        [folder / "walkthrough.sh", tmp_path / "files"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "CLOUDSYNC_DIST": str(program.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected.strip()
