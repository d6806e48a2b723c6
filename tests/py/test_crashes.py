"""Processes that are killed in every phase, on both sides, a short run: `cargo xtask crash` goes on for as long as one likes."""

from crash.campaign import Campaign
from crash.phases import ALL


def test_processes_that_are_killed_in_every_phase_lose_nothing_and_recover(program, shell):
    campaign = Campaign(program.parent, shell, seed=1)
    try:
        failures = [failure for number in range(len(ALL)) if (failure := campaign.run(number))]
    finally:
        campaign.close()
    assert not failures, "\n".join(failures)
    # A phase that ends before it is killed is no failure, but not many should.
    assert campaign.killed.total() >= len(ALL) // 2, campaign.killed
