"""SQL torture, a short run: `cargo xtask torture` goes on for as long as one likes."""

import pathlib
import shutil
import tempfile
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torture import parallel
from torture.campaign import Campaign, draw, drawn
from torture.world import Unusable

SEEDS_MIN = 30
SECONDS = 12
# Files of many writers.
PARALLEL_SEEDS = 3


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


def test_what_hypothesis_thinks_of_changes_no_result_either(binding, library):
    """The same scripts, short ones, from another source of chance: it looks for odd cases and makes them small itself."""

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def attempt(rng):
        with tempfile.TemporaryDirectory() as folder:
            campaign = Campaign(binding, library, pathlib.Path(folder))
            case = drawn(rng, campaign.version, length=12)
            failure = campaign.attempt(case)
        assert failure is None, f"SQLite {binding.version}\n{case.text()}\n{failure}"

    attempt()


def test_writers_at_the_same_time_with_and_without_the_extension_are_all_noted(binding, library, tmp_path):
    seed, usable = 0, 0
    while usable < PARALLEL_SEEDS:
        seed += 1
        try:
            parallel.run(binding, library, tmp_path / str(seed), seed)
            usable += 1
        except Unusable:
            continue
