//! The open stores of a server, one per database, opened when first asked for.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::folder::{DatabaseName, Folder};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

/// How a store is opened on the file of a database.
pub type OpenStore = dyn Fn(&Path) -> Result<Arc<dyn Store>, StoreError> + Send + Sync;

/// The place of one store, empty until it is open.
type Slot = Arc<Mutex<Option<Arc<dyn Store>>>>;

/// The stores of one folder. A store that is open stays open until it is closed by name.
pub struct Registry {
    folder: Folder,
    open_store: Box<OpenStore>,
    /// A store is opened under its own lock, so that a slow one delays nobody but those who ask for it.
    stores: Mutex<HashMap<DatabaseName, Slot>>,
}

impl Registry {
    /// A registry with nothing open.
    pub fn new(folder: Folder, open_store: Box<OpenStore>) -> Self {
        Self { folder, open_store, stores: Mutex::default() }
    }

    /// The store of a database. The caller has seen in the control database that it is served; `is_served` looks once
    /// more when the file was opened now, and from then on [`Registry::close`] is called when that changes. May wait for
    /// the disk.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be opened; the next call tries again.
    pub fn store(
        &self,
        name: &DatabaseName,
        is_served: &dyn Fn() -> bool,
    ) -> Result<Arc<dyn Store>, StoreError> {
        let slot = {
            let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(stores.entry(name.clone()).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*slot {
            return Ok(Arc::clone(store));
        }
        let store = (self.open_store)(&self.folder.database_path(name))?;
        if !is_served() {
            return Err(StoreError::Busy("the database is being worked on".to_owned()));
        }
        *slot = Some(Arc::clone(&store));
        Ok(store)
    }

    /// The databases whose stores are open, or just being opened.
    #[must_use]
    pub fn open_names(&self) -> Vec<DatabaseName> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |slot: &Slot| slot.try_lock().map_or(true, |slot| slot.is_some());
        stores.iter().filter(|(_, slot)| is_open(slot)).map(|(name, _)| name.clone()).collect()
    }

    /// Closes a store, as soon as those who work with it have ended.
    pub fn close(&self, name: &DatabaseName) {
        let slot = self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        drop(slot.and_then(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

/// Opens the store in an ordinary SQLite file.
///
/// # Errors
/// [`StoreError`] when the file cannot be opened, or is missing: an empty one in its place would look like a server that
/// lost everything, while perhaps only a disk is not mounted.
pub fn open_store(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Failed(format!(
            "the file {} is missing: put it back, or restore it from a backup",
            path.display()
        )));
    }
    Ok(Arc::new(SqliteStore::open(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Feed;
    use crate::store::Asker;
    use cloudsync_protocol::message::Request;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Silent(Feed);

    impl Store for Silent {
        fn turn(&self, _: &Request<'_>, _: &Asker, _: u64) -> Result<Vec<u8>, StoreError> {
            Ok(Vec::new())
        }

        fn feed(&self) -> &Feed {
            &self.0
        }

        fn refresh(&self) -> Result<bool, StoreError> {
            Ok(false)
        }
    }

    #[test]
    fn a_missing_file_is_not_replaced_by_an_empty_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lost.db");
        assert!(open_store(&path).is_err_and(|error| error.to_string().contains("missing")));
        assert!(!path.exists());
    }

    #[test]
    fn a_store_is_opened_once_and_again_only_after_a_failure() {
        let temp = tempfile::tempdir().unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let open_store = move |path: &Path| {
            assert!(path.ends_with("databases/one.db"));
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => Err(StoreError::Busy("starting".into())),
                _ => Ok(Arc::new(Silent::default()) as Arc<dyn Store>),
            }
        };
        let registry = Registry::new(Folder::create(temp.path()).unwrap(), Box::new(open_store));
        let name = DatabaseName::new("one").unwrap();
        let store = |is_served| registry.store(&name, &|| is_served);
        assert!(store(true).is_err());
        let first = store(true).unwrap();
        assert!(Arc::ptr_eq(&first, &store(true).unwrap()));
        assert_eq!((opened.load(Ordering::Relaxed), registry.open_names().len()), (2, 1));
        registry.close(&name);
        assert_eq!((Arc::strong_count(&first), registry.open_names().len()), (1, 0));
        assert!(store(false).is_err(), "it was taken meanwhile");
        store(true).unwrap();
    }
}
