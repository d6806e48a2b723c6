"""`python -m crash`: cycles of killing and recovering, from a seed."""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from crash.campaign import Campaign  # noqa: E402
from crash.phases import ALL  # noqa: E402

FAILURES_MAX = 5
# Between two lines of progress.
SECONDS = 5


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=len(ALL) * 4)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--from", dest="first", type=int, default=0, help="the number of the first cycle")
    parser.add_argument("--phase", choices=ALL, help="one phase alone")
    args = parser.parse_args()
    dist = pathlib.Path(os.environ.get("CLOUDSYNC_DIST", HERE.parents[3] / "dist"))
    shell = shutil.which("sqlite3")
    if not shell or not (dist / "cloudsync").is_file():
        sys.exit("the sqlite3 shell or what `cargo xtask build` makes is missing")
    print(f"seed {args.seed}", flush=True)
    campaign = Campaign(dist, shell, args.seed)
    begun = shown = time.monotonic()
    try:
        for number in range(args.first, args.first + args.cycles):
            if failure := campaign.run(number, args.phase):
                print(f"FAILED: {failure}", flush=True)
                if campaign.failed >= FAILURES_MAX:
                    break
            now = time.monotonic()
            if now - shown >= SECONDS:
                shown = now
                print(
                    f"[{campaign.cycles}/{args.cycles} {int(now - begun) // 60}:{int(now - begun) % 60:02}] "
                    f"{campaign.killed.total()} killed, {campaign.failed} failed", flush=True,
                )
    finally:
        campaign.close()
    for name in ALL:
        print(f"{campaign.killed[name]:>6}  {name}")
    print(f"{campaign.cycles} cycles, {campaign.killed.total()} killed in the midst, {campaign.rows} rows, {campaign.failed} failed")
    counts = {"cycles": campaign.cycles, "cycles failed": campaign.failed, "rows": campaign.rows}
    counts |= {f"phase: {name}": count for name, count in campaign.killed.items()}
    print(f"totals {json.dumps(counts)}", flush=True)
    return 1 if campaign.failed else 0


if __name__ == "__main__":
    sys.exit(main())
