//! What a run may contain, drawn from its seed.

use crate::likings;
use crate::options::Case;
use crate::random::Dice;
use crate::rights;
use crate::switches;
use crate::workload;

/// Two calm days: some 60 rows and 12 syncs for each device and hour.
const CALM_DEVICES: usize = 5;
pub(crate) const CALM_TICKS: u64 = 12_000;
const CALM_PAUSE_MS_MAX: u64 = 360_000;
/// It changes who may see a row, but seldom.
const CALM_STRAYING: u64 = 50;
/// Of a thousand steps; more are not begun than there must be.
const CALM_SYNCS: u64 = 700;
/// Of a thousand calm histories, those with large values, some 20 MB in a day.
const LARGE_CALM: u64 = 50;

/// How often things go wrong in a run. Rates are of a thousand steps of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) ticks: u64,
    pub(crate) devices: usize,
    pub(crate) devices_max: usize,
    pub(crate) pause_ms_max: u64,
    /// Steps of a device in which it begins a sync.
    pub(crate) syncs: u64,
    pub(crate) crashes: u64,
    pub(crate) power_losses: u64,
    pub(crate) disk_faults: u64,
    pub(crate) server_faults: u64,
    /// Of a thousand steps of the server.
    pub(crate) server_restarts: u64,
    pub(crate) clock_jumps: u64,
    pub(crate) copies: u64,
    pub(crate) restores: u64,
    pub(crate) server_restores: u64,
    pub(crate) joins: u64,
    pub(crate) alterations: u64,
    pub(crate) couriers: u64,
    pub(crate) processes: u64,
    /// Devices at the start that belong to users.
    pub(crate) users: u64,
    /// Policies, claims and users change so often.
    pub(crate) policy_changes: u64,
    pub(crate) claim_changes: u64,
    pub(crate) user_changes: u64,
    pub(crate) server_writes: bool,
    /// Filters are set, changed and cleared so often.
    pub(crate) filters: u64,
    /// There are tables with foreign keys.
    pub(crate) families: bool,
    /// A table gets other names so often.
    pub(crate) renames: u64,
    /// Idle syncs check what is held. Without that nothing but syncing makes replicas equal.
    pub(crate) checks: bool,
    pub(crate) skew_ms_max: i64,
    /// Of a thousand transactions of apps, those that write more than one chunk takes.
    pub(crate) large: u64,
    /// Everybody sleeps for long, so often.
    pub(crate) naps: u64,
    /// Copies do not know that they are, and meet each other before the server.
    pub(crate) twins: bool,
    /// A table is made anew behind the library's back, so often.
    pub(crate) rebuilds: u64,
    /// Keys may only read, and tokens run out.
    pub(crate) rights: bool,
    /// The server's owner switches tables off and on.
    pub(crate) switches: bool,
    /// The tables that apps write, as bits of their places; all of them if there is none.
    pub(crate) tables: u32,
    /// Of a thousand writes of what decides who sees a row, those that may say something else than before.
    pub(crate) straying: u64,
    /// Devices do no more in an hour than they must to count as busy.
    pub(crate) is_paced: bool,
}

/// The stream of what was added to the world once seeds were known, so that those keep their other draws.
pub(crate) const LATER: u64 = 0x6c61_7465_7264_7261;

impl Plan {
    pub(crate) fn draw(dice: &mut Dice, case: &Case) -> Self {
        let devices = 5 + dice.below(3) as usize;
        let mut plan = Self {
            ticks: 300 + dice.below(700),
            devices,
            devices_max: devices + 3,
            pause_ms_max: *dice.pick(&[20_000, 90_000, 180_000]),
            syncs: 400,
            crashes: *dice.pick(&[0, 20, 80]),
            power_losses: *dice.pick(&[0, 10, 40]),
            disk_faults: *dice.pick(&[0, 20, 60, 150]),
            server_faults: *dice.pick(&[0, 30, 100, 250]),
            server_restarts: 30,
            clock_jumps: *dice.pick(&[0, 0, 15]),
            copies: *dice.pick(&[0, 0, 10]),
            restores: *dice.pick(&[0, 0, 5]),
            server_restores: *dice.pick(&[0, 0, 0, 10]),
            joins: *dice.pick(&[0, 10]),
            alterations: *dice.pick(&[0, 0, 15]),
            couriers: *dice.pick(&[0, 0, 30]),
            processes: *dice.pick(&[0, 0, 20]),
            users: 0,
            policy_changes: 0,
            claim_changes: 0,
            user_changes: 0,
            server_writes: dice.chance(700),
            filters: 0,
            families: false,
            renames: 0,
            checks: true,
            skew_ms_max: *dice.pick(&[0, 3_000, 50_000, 4_000_000]),
            large: workload::LARGE_SELDOM,
            naps: 0,
            twins: false,
            rebuilds: 0,
            rights: !case.calm && rights::are_drawn(case.seed),
            switches: !case.calm && switches::are_drawn(case.seed),
            tables: 0,
            straying: 1_000,
            is_paced: false,
        };
        if dice.chance(500) {
            plan.users = 1 + dice.below(3);
        }
        plan.policy_changes = *dice.pick(&[0, 30, 100]);
        plan.claim_changes = *dice.pick(&[0, 30, 100]);
        plan.user_changes = *dice.pick(&[0, 0, 10]);
        let mut later = Dice::new(case.seed ^ LATER);
        plan.filters = *later.pick(&[0, 0, 10, 30]);
        plan.families = later.chance(400);
        plan.renames = *later.pick(&[0, 0, 15]);
        plan.checks = later.chance(600);
        // What is restored loses what others must bring back, and what comes by hand meets wrong clocks: both are rare enough.
        if !case.without.contains("unchecked") {
            plan.server_restores = plan.server_restores.max(*later.pick(&[0, 0, 60]));
            plan.couriers = plan.couriers.max(*later.pick(&[0, 0, 60]));
        }
        if !case.calm && !case.without.contains("likings") {
            likings::draw(case.seed, &mut plan);
        }
        case.limit(&mut plan);
        plan
    }

    /// Days that are as busy as `--busy` asks for and hardly more, so that what a simulated hour costs can be compared.
    /// Everything goes wrong, but not often, and schemas change seldom; nobody joins or is copied, so that there are as many
    /// devices at once as there must be. What kinds of tables and users there are is as drawn.
    pub(crate) fn calm_down(&mut self, seed: u64) {
        let drawn = *self;
        self.fill(4);
        (self.users, self.families, self.ticks) = (drawn.users, drawn.families, CALM_TICKS);
        self.alterations = 1;
        (self.filters, self.renames) = (drawn.filters.min(1), drawn.renames.min(1));
        self.straying = CALM_STRAYING;
        (self.devices, self.devices_max) = (CALM_DEVICES, CALM_DEVICES);
        (self.pause_ms_max, self.syncs) = (CALM_PAUSE_MS_MAX, CALM_SYNCS);
        (self.large, self.is_paced) = (u64::from(Dice::new(seed ^ LATER).chance(LARGE_CALM)), true);
    }

    /// Has everything go wrong, at a fraction of the highest rates that a history may draw.
    pub(crate) fn fill(&mut self, fraction: u64) {
        for (rate, often) in [
            (&mut self.crashes, 20),
            (&mut self.power_losses, 10),
            (&mut self.disk_faults, 60),
            (&mut self.server_faults, 100),
            (&mut self.server_restarts, 30),
            (&mut self.clock_jumps, 15),
            (&mut self.copies, 10),
            (&mut self.restores, 5),
            (&mut self.server_restores, 10),
            (&mut self.joins, 10),
            (&mut self.alterations, 15),
            (&mut self.couriers, 30),
            (&mut self.processes, 20),
            (&mut self.policy_changes, 60),
            (&mut self.claim_changes, 60),
            (&mut self.user_changes, 10),
            (&mut self.filters, 20),
            (&mut self.renames, 15),
        ] {
            *rate = (often / fraction).max(1);
        }
        self.users = self.users.max(2);
        (self.server_writes, self.families) = (true, true);
    }
}
