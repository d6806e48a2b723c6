//! What people are told: the status, and the settings by name.

use crate::changes;
use crate::compaction::HISTORY;
use crate::credential::KEEP_KEY;
use crate::error::{Error, Result};
use crate::init::{FLAG_BARE_COLUMNS, FLAG_NULLABLE_KEY};
use crate::kept;
use crate::replica::{BUSY_MS_DEFAULT, Replica};
use crate::scrub::SCRUB_BYTES_MAX;
use crate::storage;
use cloudsync_sqlite_ffi::{Connection, Value};
use serde_json::{Value as Json, json};

/// A setting that `cloudsync_set` knows.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it does, with unit and bounds.
    pub doc: &'static str,
    /// Its value until it is set.
    pub default: u64,
    /// The smallest value.
    pub min: u64,
    /// The largest value.
    pub max: u64,
}

/// All settings that are numbers.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "busy_ms",
        doc: "how long a locked file is retried before `database is busy`, in milliseconds, 1 to 600000",
        default: BUSY_MS_DEFAULT,
        min: 1,
        max: 600_000,
    },
    Setting {
        name: HISTORY,
        doc: "for how long each change of a row is listed by itself, in milliseconds, 1 to 315360000000 (ten years); of older ones only the last of each row is kept",
        default: 604_800_000,
        min: 1,
        max: 315_360_000_000,
    },
    Setting {
        name: SCRUB_BYTES_MAX,
        doc: "largest file that is cleaned by VACUUM once rows were evicted, in bytes, 1 to 1099511627776; in a larger one that stays due",
        default: 64 << 20,
        min: 1,
        max: 1 << 40,
    },
    Setting {
        name: "network_connect_ms",
        doc: "how long a connection to the server may take, names and TLS included, in milliseconds, 1 to 600000",
        default: 10_000,
        min: 1,
        max: 600_000,
    },
    Setting {
        name: "network_answer_ms",
        doc: "how long the beginning of an answer may take once the request is sent, in milliseconds, 1 to 3600000",
        default: 120_000,
        min: 1,
        max: 3_600_000,
    },
    Setting {
        name: "network_request_ms",
        doc: "how long one request and its answer may take as a whole, in milliseconds, 1 to 86400000",
        default: 600_000,
        min: 1,
        max: 86_400_000,
    },
    Setting {
        name: "network_total_ms",
        doc: "how long one sync may take, with all its requests and pauses, in milliseconds, 1 to 86400000; what was taken by then stays",
        default: 86_400_000,
        min: 1,
        max: 86_400_000,
    },
    Setting {
        name: KEEP_KEY,
        doc: "1 keeps the key or token in the file, where whoever can read the file can read it, so that automatic sync goes on after a restart; 0 keeps it in memory alone, and takes it out of the file",
        default: 0,
        min: 0,
        max: 1,
    },
];

/// A setting that is text.
#[derive(Debug, Clone, Copy)]
pub struct TextSetting {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Most bytes of its value.
    pub bytes_max: usize,
}

/// All settings that are text. They have no value until they are set, and NULL takes it away again.
pub const TEXT_SETTINGS: &[TextSetting] = &[TextSetting {
    name: "network_ca",
    doc: "certificates in PEM, or the path of a file with them, that alone vouch for the server in place of the system's; NULL takes them away",
    bytes_max: 65_536,
}];

fn known(name: &str) -> Result<&'static Setting> {
    let texts = TEXT_SETTINGS.iter().map(|setting| setting.name);
    let names = || SETTINGS.iter().map(|setting| setting.name).chain(texts).collect::<Vec<_>>().join(", ");
    SETTINGS
        .iter()
        .find(|setting| setting.name == name)
        .ok_or_else(|| Error::usage(format!("unknown setting '{name}': the settings are {}", names())))
}

/// The value of a setting.
pub(crate) fn number_setting(db: &Connection, name: &str) -> Result<u64> {
    let default = known(name)?.default;
    Ok(storage::get_i64(db, name)?.and_then(|number| u64::try_from(number).ok()).unwrap_or(default))
}

impl Replica {
    /// Changes a setting.
    ///
    /// # Errors
    /// When there is no such setting or the value is out of its bounds.
    pub fn set_setting(&mut self, name: &str, value: Value<'_>) -> Result<()> {
        if let Some(setting) = TEXT_SETTINGS.iter().find(|setting| setting.name == name) {
            return self.set_text(setting, value);
        }
        let setting = known(name)?;
        let number = match value {
            Value::Integer(integer) => u64::try_from(integer).ok(),
            Value::Text(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
            Value::Null | Value::Real(_) | Value::Blob(_) => None,
        };
        let number = number.filter(|number| (setting.min..=setting.max).contains(number));
        let number = number.ok_or_else(|| Error::usage(format!("setting {name}: {}", setting.doc)))?;
        self.create()?;
        self.transact(|replica| storage::set_u64(&replica.db, name, number))?;
        if name == KEEP_KEY && number == 0 { self.forget_credential() } else { Ok(()) }
    }

    fn set_text(&mut self, setting: &TextSetting, value: Value<'_>) -> Result<()> {
        let fits = match value {
            Value::Null => true,
            Value::Text(text) => text.len() <= setting.bytes_max && std::str::from_utf8(text).is_ok(),
            Value::Integer(_) | Value::Real(_) | Value::Blob(_) => false,
        };
        if !fits {
            let (name, doc, bytes_max) = (setting.name, setting.doc, setting.bytes_max);
            return Err(Error::usage(format!("setting {name}: {doc}; text of at most {bytes_max} bytes")));
        }
        self.create()?;
        self.transact(|replica| match value {
            Value::Null => storage::unset(&replica.db, setting.name),
            value => storage::set(&replica.db, setting.name, value),
        })
    }

    /// The value of a setting that is a number, or its default.
    ///
    /// # Errors
    /// When there is no such setting, or the file cannot be read.
    pub fn setting_number(&self, name: &str) -> Result<u64> {
        if self.exists()? { number_setting(&self.db, name) } else { Ok(known(name)?.default) }
    }

    /// The value of a setting; `None` for one without a value.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn setting(&self, name: &str) -> Result<Option<String>> {
        if TEXT_SETTINGS.iter().any(|setting| setting.name == name) {
            return if self.exists()? { storage::get_text(&self.db, name) } else { Ok(None) };
        }
        let setting = known(name)?;
        let stored = if self.exists()? { storage::get_i64(&self.db, name)? } else { None };
        Ok(Some(stored.map_or_else(|| setting.default.to_string(), |number| number.to_string())))
    }

    /// What is going on, as a JSON object.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn status(&mut self) -> Result<Json> {
        if !self.exists()? {
            return Ok(json!({ "tables": [], "remedy": "call cloudsync_init('<table>')" }));
        }
        self.catalog.load(&self.db)?;
        let mut tables = Vec::new();
        for table in self.catalog.tables() {
            let null_keys = self.null_keys(&table)?;
            let sql = "SELECT flags FROM main.cloudsync_tables WHERE id = ?1";
            let flags = self.db.query_i64(sql, &[Value::Integer(table.id)])?.unwrap_or(0);
            tables.push(json!({
                "name": table.name, "algorithm": table.algorithm.name(), "enabled": table.enabled,
                "rows_with_null_key": null_keys, "advice": advice(&table, flags),
                "filter": table.filter.as_ref().map(|filter| filter.text()),
            }));
        }
        let altering = self.catalog.altering().to_vec();
        let (site, unsent, db) = (self.site_id()?, self.has_unsent()?, self.db);
        let parted = self.parted()?;
        let count = |journal: &str| -> Result<i64> {
            Ok(db.query_i64(&format!("SELECT count(*) FROM main.{journal}"), &[])?.unwrap_or(0))
        };
        let last_round = self.last_round()?.and_then(|text| serde_json::from_str::<Json>(&text).ok());
        Ok(json!({
            "site_id": site.to_string(),
            "version": changes::last_version(&self.db)?,
            "tables": tables,
            "altering": altering,
            "kept_bytes": kept::bytes(&db)?,
            "kept_lost": kept::is_lost(&db)?,
            "unfolded_writes": count("cloudsync_log")?,
            "unsent": unsent,
            "scrub_due": self.is_scrub_due()?,
            "reconciling": self.is_reconciling()?,
            "repairs": self.repairs()?,
            "parted": parted.map(|(at, why)| json!({ "at": at, "why": why })),
            "cursor": storage::get_u64(&self.db, "cursor")?,
            "downloading": storage::get_blob(&self.db, "position")?.is_some(),
            "clock_offset_ms": storage::get_i64(&self.db, "clock_offset")?.unwrap_or(0),
            "server": self.server()?,
            "last_round": last_round,
            "quarantine": count("cloudsync_quarantine")?,
            "conflicts": count("cloudsync_conflicts")?,
            "rejected": count("cloudsync_rejected")?,
            "dropped_from_quarantine": storage::get_u64(&db, crate::quarantine::QUARANTINE_DROPPED)?,
            "dropped_from_conflicts": storage::get_u64(&db, crate::conflicts::CONFLICTS_DROPPED)?,
            "dropped_from_rejected": storage::get_u64(&db, crate::rejected::REJECTED_DROPPED)?,
        }))
    }

    /// Rows with NULL in their key stay local. Only keys that may be NULL are looked through.
    fn null_keys(&self, table: &crate::table::Table) -> Result<i64> {
        let nullable = nullable_keys(table);
        if nullable.is_empty() {
            return Ok(0);
        }
        let any: Vec<_> =
            nullable.iter().map(|name| format!("{} IS NULL", storage::quote_identifier(name))).collect();
        let sql = format!("SELECT count(*) FROM {} WHERE {}", table.quoted(), any.join(" OR "));
        Ok(self.db.query_i64(&sql, &[])?.unwrap_or(0))
    }
}

/// Key columns that SQLite lets be NULL: all that are not declared NOT NULL, outside WITHOUT ROWID tables.
fn nullable_keys(table: &crate::table::Table) -> Vec<String> {
    let definition = &table.definition;
    if definition.without_rowid {
        return Vec::new();
    }
    let key = crate::table::Table::key_columns(definition);
    let lone_integer = key.len() == 1 && key[0].schema.declared_type.eq_ignore_ascii_case("INTEGER");
    let nullable = key.iter().filter(|column| !column.schema.not_null && !lone_integer);
    nullable.map(|column| column.name().to_owned()).collect()
}

/// What could be better about a table, as far as it is not silenced.
fn advice(table: &crate::table::Table, flags: i64) -> Vec<String> {
    let nullable = if flags & FLAG_NULLABLE_KEY == 0 { nullable_keys(table) } else { Vec::new() };
    let nullable = nullable.into_iter().map(|name| {
        format!("key column \"{name}\" may be NULL, and such rows stay local: declare it NOT NULL")
    });
    let bare = table.cells.iter().map(|cell| &cell.column.schema);
    let bare = bare.filter(|column| {
        flags & FLAG_BARE_COLUMNS == 0 && column.not_null && column.default.is_none() && column.key_place == 0
    });
    let bare = bare.map(|column| {
        format!("column \"{}\" is NOT NULL without a DEFAULT: rows from devices that do not know it yet will wait", column.name)
    });
    let withheld = table.filter.iter().filter_map(|filter| filter.fault.as_ref()).map(|fault| {
        let name = &table.name;
        format!("nothing of the table is sent, because its filter cannot be evaluated: {fault}: call cloudsync_set_filter('{name}', ...) or cloudsync_clear_filter('{name}')")
    });
    nullable.chain(bare).chain(withheld).collect()
}
