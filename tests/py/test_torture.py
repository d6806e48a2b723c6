"""SQL torture, a short run: `cargo xtask torture` goes on for as long as one likes."""

import shutil

from torture.campaign import Campaign, draw

# As many everywhere, however fast the machine is. `cargo xtask torture` goes on from there.
SEEDS = 60


def test_tracking_changes_no_result_and_replicas_follow(binding, library, tmp_path):
    campaign = Campaign(binding, library, tmp_path, shutil.which("sqlite3"))
    for seed in range(1, SEEDS + 1):
        case = draw(seed, campaign.version, length=120)
        failure = campaign.attempt(case)
        if failure:
            case, failure = campaign.shorten(case, failure, seconds=60)
            raise AssertionError(f"seed {seed} in SQLite {binding.version}\n{case.text()}\n{failure}")
    assert campaign.statements > 10 * SEEDS, "most schemas were refused"
