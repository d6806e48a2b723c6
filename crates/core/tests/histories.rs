//! Histories of local writes at several sites, delivered in any order, again and again, whole and in parts: all sites
//! end the same, and where a naive model says.

#![allow(clippy::unwrap_used)]

#[path = "histories/model.rs"]
mod model;

use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal, TIME_INITIAL, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::{Action, Algorithm, decide, local, overlay};
use model::Event;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SITES: [SiteId; 4] = [SiteId([7; 16]), SiteId([3; 16]), SiteId([9; 16]), SiteId([5; 16])];
const COLUMNS: u16 = 3;
/// The last site has an older schema: it never heard of this column.
const NEW_COLUMN: u16 = 2;

fn columns_of(site: usize) -> ColumnSet {
    ColumnSet::first(if site == 3 { NEW_COLUMN } else { COLUMNS })
}

/// A row as a replica keeps it: the clock, the values of its cells (in the table, or kept while it is dead).
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    clock: Option<RowClock>,
    values: BTreeMap<u16, u8>,
}

impl State {
    fn is_alive(&self) -> bool {
        self.clock.as_ref().is_some_and(RowClock::is_alive)
    }

    /// Merges another state, of which these columns come; true unless it was not taken.
    fn merge(
        &mut self,
        algorithm: Algorithm,
        clock: &RowClock,
        values: &BTreeMap<u16, u8>,
        whole: bool,
    ) -> bool {
        let own = self.values.clone();
        let mut tie = |column: ColumnNumber| values.get(&column.0) > own.get(&column.0);
        let decision = decide(algorithm, self.clock.as_ref(), clock, whole, &SITES, &mut tie);
        match &decision.action {
            Action::Keep => {}
            Action::NeedWhole | Action::RefuseJump => return false,
            Action::Insert | Action::Replace => self.values = values.clone(),
            Action::Delete => self.values.clear(),
            Action::Update(columns) | Action::Bury(columns) | Action::Revive(columns) => {
                self.values.extend(columns.iter().map(|column| (column.0, values[&column.0])));
            }
        }
        if let Some(clock) = decision.clock {
            self.clock = Some(clock);
        }
        true
    }

    /// The state as a table with these columns can hold it.
    fn seen_by(&self, algorithm: Algorithm, columns: &ColumnSet) -> Self {
        let Some(clock) = &self.clock else { return self.clone() };
        if clock.columns.is_subset(columns) {
            return self.clone();
        }
        let cells: Vec<_> = clock.cells().filter(|(column, _)| columns.contains(*column)).collect();
        let seen = if algorithm == Algorithm::Aws {
            RowClock::from_writes(&cells, clock.last_write(&SITES), clock.deletion(), &SITES)
        } else {
            let seen = RowClock::from_cells(clock.life, clock.common, &cells, &SITES);
            RowClock { marks: clock.marks.clone(), ..seen }
        };
        let values = self.values.iter().filter(|(column, _)| columns.contains(ColumnNumber(**column)));
        Self { clock: Some(seen), values: values.map(|(column, value)| (*column, *value)).collect() }
    }

    /// The row with its values, for comparison with the model; `None` if there is none.
    fn row(&self) -> model::Row {
        let clock = self.clock.as_ref().filter(|clock| clock.is_alive())?;
        Some(clock.cells().map(|(column, at)| (column.0, (at, self.values[&column.0]))).collect())
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Inserts the row if it is not there, else writes all its columns, as REPLACE does.
    Put {
        site: usize,
        value: u8,
        initial: bool,
    },
    Update {
        site: usize,
        column: u16,
        value: u8,
    },
    Delete {
        site: usize,
    },
    /// Puts the state of a site on its way; `part` leaves out columns.
    Send {
        site: usize,
        part: Option<u8>,
    },
    /// One of the messages on their way arrives; it stays, and may arrive again.
    Deliver {
        message: prop::sample::Index,
        site: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let site = || 0..SITES.len();
    prop_oneof![
        3 => (site(), any::<u8>(), prop::bool::weighted(0.3))
            .prop_map(|(site, value, initial)| Step::Put { site, value, initial }),
        3 => (site(), 0..COLUMNS, any::<u8>()).prop_map(|(site, column, value)| Step::Update { site, column, value }),
        2 => site().prop_map(|site| Step::Delete { site }),
        4 => (site(), prop::option::weighted(0.3, 0..8u8)).prop_map(|(site, part)| Step::Send { site, part }),
        6 => (any::<prop::sample::Index>(), site()).prop_map(|(message, site)| Step::Deliver { message, site }),
    ]
}

struct Site {
    state: State,
    /// What it knows, by place in the list of all events; `None` once it got a part of which that cannot be said.
    known: BTreeSet<usize>,
    is_exact: bool,
}

struct Message {
    from: usize,
    state: State,
    whole: bool,
    known: BTreeSet<usize>,
    is_exact: bool,
}

struct World {
    algorithm: Algorithm,
    events: Vec<Event>,
    sites: Vec<Site>,
    messages: Vec<Message>,
    time: u64,
}

impl World {
    fn new(algorithm: Algorithm) -> Self {
        let site = |_| Site { state: State::default(), known: BTreeSet::new(), is_exact: true };
        Self {
            algorithm,
            events: Vec::new(),
            sites: (0..SITES.len()).map(site).collect(),
            messages: Vec::new(),
            time: 10,
        }
    }

    fn known(&self, site: usize) -> Vec<&Event> {
        self.sites[site].known.iter().map(|event| &self.events[*event]).collect()
    }

    /// The site's wall clock: they do not agree, and often show the same time.
    fn wall(&mut self, site: usize) -> Clock {
        self.time += 1;
        Clock::new(Time(self.time / 3 + [0, 6, 1, 14][site]), SiteOrdinal(site as u32))
    }

    fn write(&mut self, site: usize, columns: &ColumnSet, at: Clock, value: u8, is_put: bool) {
        let algorithm = self.algorithm;
        let stored = self.sites[site].state.clock.clone();
        let seen = local::seen(algorithm, stored.as_ref(), &SITES);
        let clock = match &stored {
            Some(stored) if stored.is_alive() => {
                let later = |column| at.after(stored.cell(column)).after(seen);
                let later: Vec<_> = columns.iter().map(|column| (column, later(column))).collect();
                overlay(stored, &later, &SITES)
            }
            dead => local::insert(algorithm, dead.as_ref(), at, columns.clone(), &SITES),
        };
        let is_new = !self.sites[site].state.is_alive();
        assert!(clock.is_alive() && (is_put || !is_new));
        let boundary =
            if is_new { model::last_deletion(&self.known(site), &SITES) } else { self.boundary_of(site) };
        if algorithm == Algorithm::Dws {
            assert_eq!(clock.marks.as_ref().and_then(|marks| marks.boundary), boundary);
        }
        let cells = columns.iter().map(|column| (column.0, (clock.cell(column).unwrap(), value))).collect();
        self.note(site, Event::Write { cells, life: clock.life, boundary });
        let state = &mut self.sites[site].state;
        state.clock = Some(clock);
        state.values.extend(columns.iter().map(|column| (column.0, value)));
        state.values.retain(|column, _| state.clock.as_ref().unwrap().cell(ColumnNumber(*column)).is_some());
    }

    /// The deletion behind the insertion of a living row: of all that its writes speak of, the greatest.
    fn boundary_of(&self, site: usize) -> Option<Clock> {
        let boundaries = self.known(site).into_iter().filter_map(|event| match event {
            Event::Write { boundary, .. } => *boundary,
            Event::Delete { .. } => None,
        });
        boundaries.max_by(|a, b| a.order(b, &SITES))
    }

    fn note(&mut self, site: usize, event: Event) {
        self.sites[site].known.insert(self.events.len());
        self.events.push(event);
    }

    fn delete(&mut self, site: usize) {
        if !self.sites[site].state.is_alive() || self.algorithm == Algorithm::Gos {
            return;
        }
        let at = self.wall(site);
        let stored = self.sites[site].state.clock.clone().unwrap();
        let dead = local::delete(self.algorithm, &stored, at, &SITES);
        assert!(!dead.is_alive());
        let seen = model::last_write(&self.known(site), &SITES).unwrap();
        if let Some(deletion) = dead.deletion() {
            assert_eq!(deletion.seen, seen);
        } else {
            self.sites[site].state.values.clear();
        }
        self.note(site, Event::Delete { clock: dead.row(), life: dead.life, seen });
        self.sites[site].state.clock = Some(dead);
    }

    fn send(&mut self, site: usize, part: Option<u8>) {
        let Site { state, known, is_exact } = &self.sites[site];
        let Some(clock) = state.clock.clone() else { return };
        let mut message = Message {
            from: site,
            state: state.clone(),
            whole: true,
            known: known.clone(),
            is_exact: *is_exact,
        };
        if let Some(part) = part.filter(|_| clock.is_alive()) {
            let chosen = |column: &ColumnNumber| part & (1 << column.0) != 0;
            let cells: Vec<_> = clock.cells().filter(|(column, _)| chosen(column)).collect();
            let Some((_, first)) = cells.first() else { return };
            let sent = RowClock::from_cells(clock.life, *first, &cells, &SITES);
            // The write that is no cell's travels with every part.
            let sent = match clock.marks.as_deref() {
                Some(marks) if marks.write.is_some() => {
                    RowClock::from_writes(&cells, clock.last_write(&SITES), None, &SITES)
                }
                marks => RowClock { marks: marks.copied().map(Box::new), ..sent },
            };
            let last = sent.last_write(&SITES);
            message.known.retain(|event| match &self.events[*event] {
                Event::Write { cells: written, .. } => written.iter().any(|(column, (clock, _))| {
                    *clock == last || cells.contains(&(ColumnNumber(*column), *clock))
                }),
                // Whoever takes a part of this era knows of the deletion before it.
                Event::Delete { clock, .. } => {
                    sent.marks.as_ref().is_some_and(|marks| marks.boundary == Some(*clock))
                }
            });
            message.state.clock = Some(sent);
            (message.whole, message.is_exact) = (false, false);
        }
        self.messages.push(message);
    }

    fn deliver(&mut self, message: usize, to: usize) {
        let Message { from, state, whole, known, is_exact } = &self.messages[message];
        if *from == to {
            return;
        }
        let state = state.seen_by(self.algorithm, &columns_of(to));
        let site = &mut self.sites[to];
        if site.state.merge(self.algorithm, state.clock.as_ref().unwrap(), &state.values, *whole) {
            site.known.extend(known);
            site.is_exact &= is_exact;
        }
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Put { site, value, initial } => {
                let mut at = self.wall(*site);
                if *initial && self.sites[*site].state.clock.is_none() {
                    at.time = TIME_INITIAL;
                }
                self.write(*site, &columns_of(*site), at, *value, true);
            }
            Step::Update { site, column, value } => {
                let column = ColumnNumber(*column);
                if self.sites[*site].state.is_alive() && columns_of(*site).contains(column) {
                    let at = self.wall(*site);
                    self.write(*site, &[column].into_iter().collect(), at, *value, false);
                }
            }
            Step::Delete { site } => self.delete(*site),
            Step::Send { site, part } => self.send(*site, *part),
            Step::Deliver { message, site } if !self.messages.is_empty() => {
                self.deliver(message.index(self.messages.len()), *site);
            }
            Step::Deliver { .. } => {}
        }
    }

    /// What the model says of a site's row, as a table with its columns can hold it.
    fn expected(&self, events: &[&Event], columns: &ColumnSet) -> model::Row {
        let row = model::row(self.algorithm, events, &SITES)?;
        Some(row.into_iter().filter(|(column, _)| columns.contains(ColumnNumber(*column))).collect())
    }

    fn check(&self, site: usize) -> Result<(), TestCaseError> {
        if self.sites[site].is_exact && !self.sites[site].known.is_empty() {
            let columns = columns_of(site);
            // What came through a site with an older schema lacks its column, until another one sends it.
            let is_complete = site != 3 && self.messages.iter().all(|message| message.from != 3);
            let (row, expected) = (self.sites[site].state.row(), self.expected(&self.known(site), &columns));
            prop_assert_eq!(row.is_some(), expected.is_some());
            if is_complete {
                prop_assert_eq!(row, expected);
            }
        }
        Ok(())
    }

    /// Everybody hears of everything, in an order that the seed decides.
    fn settle(&mut self, order: &[(usize, usize)]) {
        for _ in 0..3 {
            for (from, to) in order {
                self.messages.clear();
                self.send(*from, None);
                if !self.messages.is_empty() {
                    self.deliver(0, *to);
                }
            }
        }
    }
}

fn all_pairs() -> Vec<(usize, usize)> {
    (0..SITES.len()).flat_map(|from| (0..SITES.len()).map(move |to| (from, to))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn all_sites_end_where_the_model_says(
        algorithm in prop::sample::select(Algorithm::ALL.to_vec()),
        steps in prop::collection::vec(step(), 1..60),
        order in Just(all_pairs()).prop_shuffle(),
    ) {
        let mut world = World::new(algorithm);
        for step in &steps {
            world.perform(step);
            for site in 0..SITES.len() {
                world.check(site)?;
            }
        }
        world.settle(&order);
        let events: Vec<_> = world.events.iter().collect();
        for site in 0..SITES.len() {
            let columns = columns_of(site);
            let state = &world.sites[site].state;
            prop_assert_eq!(state.row(), world.expected(&events, &columns), "site {}", site);
            let first = world.sites[0].state.seen_by(algorithm, &columns);
            prop_assert_eq!(state, &first, "site {}", site);
        }
    }

    #[test]
    fn states_form_a_join(
        algorithm in prop::sample::select(Algorithm::ALL.to_vec()),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(algorithm);
        steps.iter().for_each(|step| world.perform(step));
        let states: Vec<_> = world.sites.iter().take(3).map(|site| site.state.clone()).collect();
        let join = |a: &State, b: &State| {
            let mut joined = a.clone();
            if let Some(clock) = &b.clock {
                joined.merge(algorithm, clock, &b.values, true);
            }
            joined
        };
        let [a, b, c] = &states[..] else { unreachable!() };
        prop_assert_eq!(join(a, b), join(b, a));
        prop_assert_eq!(join(&join(a, b), c), join(a, &join(b, c)));
        prop_assert_eq!(join(a, a), a.clone());
        let both = join(a, b);
        prop_assert_eq!(join(&both, b), both);
    }
}
