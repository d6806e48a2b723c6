//! What a world likes: some rare thing, which it has often then. What comes by chance alone comes too seldom together with
//! whatever else makes it interesting; what every world has often leaves none of them calm enough for the rest. So each seed
//! draws a few likings of its own (Groce et al., Swarm Testing, ISSTA 2012).

use crate::plan::Plan;
use crate::random::Dice;
use crate::workload;

/// The stream of likings, so that seeds that have none keep all of their draws.
const STREAM: u64 = 0x6c69_6b69_6e67_7321;
/// In so many of a thousand worlds each.
const OFTEN: u64 = 150;

/// Turns up what a seed likes, if it likes anything.
pub(crate) fn draw(seed: u64, plan: &mut Plan) {
    let mut dice = Dice::new(seed ^ STREAM);
    let mut likes = || dice.chance(OFTEN);
    if likes() {
        // Rounds and downloads of many chunks, and values larger than one; filters that pass over them on their way.
        plan.large = 25;
        plan.filters = plan.filters.max(40);
    }
    if likes() {
        // Everybody sleeps for longer than the server keeps what was begun.
        (plan.naps, plan.large) = (60, plan.large.max(25));
    }
    if likes() {
        // Copies that do not know it, and that tell each other before they tell the server.
        (plan.twins, plan.copies) = (true, 15);
        plan.devices_max += 2;
    }
    if likes() {
        plan.filters = 120;
    }
    if likes() {
        plan.rebuilds = 20;
    }
    let is_narrow = likes();
    let tables = (0..3).fold(0, |tables, _| tables | 1 << dice.below(workload::TABLES.len() as u64));
    plan.tables = if is_narrow { tables } else { 0 };
}
