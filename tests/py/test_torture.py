"""SQL torture, a short run: `cargo xtask torture` goes on for as long as one likes."""

import shutil
import time

from torture.campaign import Campaign, draw

SEEDS_MIN = 30
SECONDS = 12


def test_tracking_changes_no_result_and_replicas_follow(binding, library, tmp_path):
    campaign = Campaign(binding, library, tmp_path, shutil.which("sqlite3"))
    end = time.monotonic() + SECONDS
    seed = 1
    while seed <= SEEDS_MIN or time.monotonic() < end:
        case = draw(seed, campaign.version, length=120)
        failure = campaign.attempt(case)
        if failure:
            case, failure = campaign.shorten(case, failure, seconds=60)
            raise AssertionError(f"seed {seed} in SQLite {binding.version}\n{case.text()}\n{failure}")
        seed += 1
    assert campaign.statements > 10 * SEEDS_MIN, "most schemas were refused"
