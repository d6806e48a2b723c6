//! Groups of a payload: rows that have a table, columns and kind in common are written below one head.

use super::Builder;
use crate::error::Result;
use crate::storage::quote_identifier;
use crate::table::Table;
use cloudsync_core::clock::ColumnSet;
use cloudsync_core::marks::Marks;
use cloudsync_protocol::payload::GroupId;
use cloudsync_sqlite_ffi::Statement;

/// What rows of one group have in common. Tombstones have no columns and are whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) table: i64,
    pub(super) columns: ColumnSet,
    pub(super) whole: bool,
    pub(super) alive: bool,
    /// Which marks the rows have.
    pub(super) marks: [bool; 3],
    /// Their authors had not seen what the receiver wrote there.
    pub(super) concurrent: bool,
    /// They were inserted here while nothing was known of them.
    pub(super) inserted: bool,
}

/// A group of the payload, and the statement that reads its rows' values.
pub(super) struct Open {
    pub(super) shape: Shape,
    pub(super) id: GroupId,
    pub(super) select: Statement,
    /// Where the group's columns stand among the table's cells.
    pub(super) places: Vec<usize>,
}

impl Builder<'_> {
    /// The group of such rows, begun now if there is none.
    pub(super) fn group(&mut self, table: &Table, shape: Shape, marks: Option<&Marks>) -> Result<usize> {
        if !self.groups.get(self.last_group).is_some_and(|open| open.shape == shape) {
            self.last_group = match self.by_shape.get(&shape) {
                Some(group) => *group,
                None => {
                    let open = self.open(table, shape.clone(), marks)?;
                    self.groups.push(open);
                    self.by_shape.insert(shape, self.groups.len() - 1);
                    self.groups.len() - 1
                }
            };
        }
        Ok(self.last_group)
    }

    fn open(&mut self, table: &Table, shape: Shape, marks: Option<&Marks>) -> Result<Open> {
        let places: Vec<_> = shape.columns.iter().filter_map(|number| table.cell_place(number)).collect();
        let names: Vec<_> = places.iter().map(|place| table.cells[*place].column.name()).collect();
        let mut list: Vec<_> = names.iter().map(|name| quote_identifier(name)).collect();
        if list.is_empty() {
            list.push("1".to_owned());
        }
        let (condition, inside) = (table.key_condition(1), table.and_inside());
        let sql = format!("SELECT {} FROM {} WHERE {condition}{inside}", list.join(", "), table.quoted());
        let id = self.encoder.marked_group(&table.name, &names, shape.whole, marks);
        if shape.concurrent {
            self.encoder.mark_concurrent(id);
        }
        if shape.inserted {
            self.encoder.mark_inserted(id);
        }
        Ok(Open { id, select: self.db.prepare(&sql)?, places, shape })
    }
}
