//! Which changes others may know though the server never told them: those that were handed out by hand, and those in a
//! file that was copied. Insertions among them are not new to everybody (`docs/merge.md`).

use crate::error::Result;
use crate::replica::Replica;
use crate::storage;

/// The setting that says up to which version.
pub(crate) const GIVEN_VERSION: &str = "given_version";
/// The setting with the latest time that they may bear.
pub(crate) const GIVEN_TIME: &str = "given_time";

impl Replica {
    /// Notes that changes up to this version, and so stamps up to the present floor, may be known to others.
    pub(crate) fn note_given(&self, version: u64) -> Result<()> {
        if self.is_given(version)? {
            return Ok(());
        }
        storage::set_u64(&self.db, GIVEN_TIME, storage::get_u64(&self.db, "floor")?)?;
        // After a parting it lies ahead.
        storage::set_u64(&self.db, GIVEN_VERSION, storage::get_u64(&self.db, GIVEN_VERSION)?.max(version))
    }

    /// False if that is to be noted still; where nothing is unsent it makes no difference.
    pub(crate) fn is_given(&self, version: u64) -> Result<bool> {
        let is_noted = storage::get_u64(&self.db, GIVEN_VERSION)? >= version
            && storage::get_u64(&self.db, GIVEN_TIME)? == storage::get_u64(&self.db, "floor")?;
        Ok(is_noted || !self.is_anything_unsent()?)
    }
}
