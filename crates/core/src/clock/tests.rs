use super::*;
use alloc::vec;
use proptest::prelude::*;

pub(crate) const SITES: [SiteId; 3] = [SiteId([7; 16]), SiteId([3; 16]), SiteId([9; 16])];

pub(crate) fn any_clock() -> impl Strategy<Value = Clock> {
    (1..6u64, 0..3u32).prop_map(|(time, site)| Clock::new(Time(time), SiteOrdinal(site)))
}

pub(crate) fn any_row() -> impl Strategy<Value = RowClock> {
    let cells = prop::collection::btree_map((0..5u16).prop_map(ColumnNumber), any_clock(), 0..5);
    (1..5u64, any_clock(), cells).prop_map(|(life, row, cells)| {
        if life % 2 == 0 {
            return RowClock::tombstone(life, row);
        }
        let cells: Vec<_> = cells.into_iter().collect();
        RowClock::from_cells(life, row, &cells, &SITES)
    })
}

/// Rows as the algorithms with marks store them.
pub(crate) fn any_marked_row() -> impl Strategy<Value = RowClock> {
    let cells = prop::collection::btree_map((0..5u16).prop_map(ColumnNumber), any_clock(), 0..5);
    let deletion = (any_clock(), any_clock()).prop_map(|(seen, clock)| marks::Deletion { seen, clock });
    let boundary = prop::option::of(any_clock());
    (any_clock(), any_clock(), cells, prop::option::of(deletion), boundary).prop_map(
        |(row, write, cells, deletion, boundary)| {
            let cells: Vec<_> = cells.into_iter().collect();
            match boundary {
                None => RowClock::from_writes(&cells, write, deletion, &SITES),
                boundary => RowClock::from_cells(1, row, &cells, &SITES)
                    .with_marks(Marks { boundary, ..Marks::default() }),
            }
        },
    )
}

proptest! {
    #[test]
    fn stored_form_with_marks_round_trips(row in any_marked_row()) {
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        prop_assert_eq!(RowClock::decode(&bytes), Ok(row));
        for end in 0..bytes.len() {
            prop_assert!(RowClock::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn stored_form_round_trips(row in any_row()) {
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        prop_assert_eq!(RowClock::decode(&bytes), Ok(row));
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
        let _ = RowClock::decode(&bytes);
    }

    #[test]
    fn column_sets_behave_like_sets(a in prop::collection::btree_set(0..300u16, 0..20),
                                    b in prop::collection::btree_set(0..300u16, 0..20)) {
        let set = |columns: &alloc::collections::BTreeSet<u16>| -> ColumnSet {
            columns.iter().copied().map(ColumnNumber).collect()
        };
        let (sa, sb) = (set(&a), set(&b));
        let mut union = sa.clone();
        union.union_with(&sb);
        prop_assert_eq!(union, set(&a.union(&b).copied().collect()));
        let mut both = sa.clone();
        both.intersect_with(&sb);
        prop_assert_eq!(both, set(&a.intersection(&b).copied().collect()));
        prop_assert_eq!(sa.is_subset(&sb), a.is_subset(&b));
        prop_assert_eq!(sa.len(), a.len());
        prop_assert!(sa.iter().map(|c| c.0).eq(a.iter().copied()));
        let mut bytes = Vec::new();
        sa.encode_bitmap(&mut bytes);
        prop_assert_eq!(ColumnSet::decode_bitmap(&mut Reader::new(&bytes)), Ok(sa));
    }
}

#[test]
fn an_unconflicted_row_takes_nine_bytes() {
    let clock = Clock::new(Time(1_790_000_000_000), SiteOrdinal(0));
    let mut bytes = vec![];
    RowClock::alive(1, clock, ColumnSet::first(10)).encode(&mut bytes);
    assert_eq!(bytes.len(), 9);
}

#[test]
fn marks_that_contradict_the_rest_are_refused() {
    let clock = Clock::new(Time(1_000), SiteOrdinal(0));
    let deletion = Some(marks::Deletion { seen: clock, clock });
    let alive = || RowClock::alive(1, clock, ColumnSet::first(2));
    let refused = |row: RowClock| {
        let mut bytes = vec![];
        row.encode(&mut bytes);
        RowClock::decode(&bytes).is_err()
    };
    let with = |boundary, write, deletion| Marks { boundary, write, deletion };
    assert!(refused(alive().with_marks(with(None, None, deletion))));
    assert!(refused(RowClock::alive(3, clock, ColumnSet::first(2)).with_marks(with(
        Some(clock),
        None,
        None
    ))));
    assert!(refused(RowClock::alive(1, clock, ColumnSet::new()).with_marks(with(None, Some(clock), None))));
    assert!(refused(alive().with_marks(with(Some(clock), Some(clock), None))));
    assert!(!refused(alive().with_marks(with(Some(clock), None, None))));
    let dead = RowClock::tombstone(2, clock);
    assert!(refused(dead.clone().with_marks(with(Some(clock), None, deletion))));
    assert!(!refused(dead.with_marks(with(None, None, deletion))));
}

#[test]
fn a_row_that_could_be_stored_otherwise_is_refused() {
    let clock = |time| Clock::new(Time(time), SiteOrdinal(0));
    let columns = ColumnSet::first(3);
    let decoded = |exceptions: &[u16], more: &[u8]| {
        let exceptions = exceptions.iter().map(|column| (ColumnNumber(*column), clock(7))).collect();
        let row = RowClock { life: 1, common: clock(9), columns: columns.clone(), exceptions, marks: None };
        let mut bytes = vec![];
        row.encode(&mut bytes);
        bytes.extend_from_slice(more);
        RowClock::decode(&bytes).map(|read| assert_eq!(read, row))
    };
    assert_eq!(decoded(&[0, 2], &[]), Ok(()));
    // In another order, one column twice, a column that the row does not have, something behind it.
    for (exceptions, more) in [(&[2, 0][..], &[][..]), (&[1, 1], &[]), (&[3], &[]), (&[0], &[0])] {
        assert_eq!(decoded(exceptions, more), Err(BytesError::OutOfBounds("row clock")));
    }
    // A bitmap with a zero at its end.
    let mut bitmap = vec![];
    crate::bytes::put_bytes(&mut bitmap, &[1, 0]);
    let bitmap = ColumnSet::decode_bitmap(&mut Reader::new(&bitmap));
    assert_eq!(bitmap, Err(BytesError::OutOfBounds("column bitmap")));
}

#[test]
fn the_largest_time_is_looked_for_everywhere() {
    let clock = |time| Clock::new(Time(time), SiteOrdinal(0));
    let cells = [(ColumnNumber(0), clock(5)), (ColumnNumber(1), clock(8))];
    let row = RowClock::from_cells(1, clock(5), &cells, &SITES);
    assert_eq!(row.time_max(), Time(8));
    let boundary = Some(clock(11));
    assert_eq!(row.with_marks(Marks { boundary, ..Marks::default() }).time_max(), Time(11));
}

#[test]
fn first_is_told_from_other_sets() {
    assert_eq!(ColumnSet::first(0).as_first(), Some(0));
    assert_eq!(ColumnSet::first(64).as_first(), Some(64));
    assert_eq!(ColumnSet::first(500).as_first(), Some(500));
    assert_eq!([ColumnNumber(1)].into_iter().collect::<ColumnSet>().as_first(), None);
}
