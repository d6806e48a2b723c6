"""`python -m torture`: scripts from one seed after the other, until the time is over or one fails."""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from devices import BINDINGS  # noqa: E402
from torture import parallel  # noqa: E402
from torture.campaign import Campaign, draw  # noqa: E402
from torture.world import Failure, Unusable  # noqa: E402

# Every so many seeds one has several writers at the same time.
PARALLEL_EVERY = 20


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--from", dest="first", type=int, default=int(time.time()), help="the first seed")
    parser.add_argument("--binding", choices=BINDINGS, help="one SQLite alone")
    parser.add_argument("--length", type=int, default=120)
    parser.add_argument("--keep-going", action="store_true", help="go on after failures")
    parser.add_argument("--shorten-seconds", type=float, default=60)
    return parser.parse_args()


def attempt_parallel(campaign, seed):
    """The failure of several writers on one file, or None."""
    try:
        campaign.statements += parallel.run(campaign.binding, campaign.library, campaign.folder / f"parallel{seed}", seed)
    except Unusable:
        campaign.unusable += 1
    except Failure as failure:
        failure.kind = f"parallel {failure.kind}"
        print(f"seed {seed} fails in SQLite {campaign.binding.version} ({campaign.binding.name}), writers at the same time\n{failure}\n", flush=True)
        return failure
    return None


def main():
    args = arguments()
    dist = pathlib.Path(os.environ.get("CLOUDSYNC_DIST", HERE.parents[3] / "dist"))
    library = dist / "lib" / "cloudsync.so"
    memory = pathlib.Path("/dev/shm")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="torture-", dir=memory if memory.is_dir() else None))
    names = [args.binding] if args.binding else list(BINDINGS)
    campaigns = [Campaign(BINDINGS[name], library, folder / name, shutil.which("sqlite3")) for name in names]
    end = time.monotonic() + args.minutes * 60
    seed, failures, seeds = args.seed if args.seed is not None else args.first, {}, 0
    try:
        while True:
            campaign = campaigns[seeds % len(campaigns)]
            case = draw(seed, campaign.version, args.length)
            seeds += 1
            failure = campaign.attempt(case)
            if failure is None and seeds % PARALLEL_EVERY == 0:
                failure = attempt_parallel(campaign, seed)
                if failure:
                    failures.setdefault(failure.kind, []).append(seed)
                    failure = None
                    if not args.keep_going:
                        break
            if failure:
                name = campaign.binding.name
                if failure.kind not in failures:
                    case, failure = campaign.shorten(case, failure, args.shorten_seconds)
                    print(f"seed {seed} fails in SQLite {campaign.binding.version} ({name})\n{case.text()}\n{failure}\n", flush=True)
                failures.setdefault(failure.kind, []).append(seed)
                if not args.keep_going:
                    break
            if args.seed is not None and seeds >= len(campaigns) or time.monotonic() > end:
                break
            seed += args.seed is None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = ", ".join(f"{campaign.statements} statements in SQLite {campaign.binding.version}" for campaign in campaigns)
    refused = sum(campaign.unusable for campaign in campaigns)
    failed = sum(map(len, failures.values()))
    print(f"{seeds} seeds ({refused} with schemas that SQLite refuses): {report}; {failed} failed")
    # For the page of figures.
    counts = {"seeds": seeds, "seeds failed": failed, "unusable": refused}
    counts |= {f"statements in {campaign.binding.version}": campaign.statements for campaign in campaigns}
    print(f"totals {json.dumps(counts)}", flush=True)
    for kind, seeds_failed in failures.items():
        print(f"  {kind}: {len(seeds_failed)} seeds, {seeds_failed[:12]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
