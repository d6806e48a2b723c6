//! A chunk as plain data, and the ways from and to bytes.

use cloudsync_core::clock::{Clock, SiteOrdinal, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::marks::Marks;
use cloudsync_core::value::Value;
use cloudsync_protocol::payload::{Codec, Encoder, Header, Opened, PayloadError, Reference, SetId, Stored};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) life: u64,
    pub(crate) clock: Clock,
    pub(crate) exceptions: Vec<(u16, Clock)>,
    /// Of the same kinds in all rows of a group.
    pub(crate) marks: Option<Marks>,
    pub(crate) values: Vec<Value>,
    /// In the place of values that are NULL, by column.
    pub(crate) references: Vec<(u16, Reference)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    pub(crate) table: String,
    pub(crate) columns: Vec<String>,
    pub(crate) whole: bool,
    pub(crate) concurrent: bool,
    pub(crate) inserted: bool,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) header: Header,
    pub(crate) sites: Vec<SiteId>,
    pub(crate) groups: Vec<Rows>,
    /// Tables, and keys of rows that their receiver may no longer hold.
    pub(crate) evicted: Vec<(String, Vec<Vec<u8>>)>,
    pub(crate) pieces: Vec<(SetId, u64, Vec<u8>)>,
}

impl Chunk {
    pub(crate) fn encode(&self, codec: &dyn Codec) -> Vec<u8> {
        self.encode_but(codec, false)
    }

    /// The same, but takes the last row of each group back after it was pushed.
    pub(crate) fn encode_without_last_rows(&self, codec: &dyn Codec) -> Vec<u8> {
        self.encode_but(codec, true)
    }

    fn encode_but(&self, codec: &dyn Codec, pops: bool) -> Vec<u8> {
        let mut encoder = Encoder::new();
        for (index, site) in self.sites.iter().enumerate() {
            assert_eq!(encoder.site(site), SiteOrdinal(index as u32));
        }
        for group in &self.groups {
            let columns: Vec<_> = group.columns.iter().map(String::as_str).collect();
            let like = group.rows.first().and_then(|row| row.marks);
            let id = encoder.marked_group(&group.table, &columns, group.whole, like.as_ref());
            if group.concurrent {
                encoder.mark_concurrent(id);
            }
            if group.inserted {
                encoder.mark_inserted(id);
            }
            for row in &group.rows {
                let values = row.values.iter().map(Value::borrow);
                let Row { key, life, clock, exceptions, .. } = row;
                encoder.push_marked(id, key, *life, *clock, row.marks.as_ref(), exceptions, values);
                row.references.iter().for_each(|(column, it)| encoder.refer(id, *column, it));
            }
            if pops {
                encoder.pop(id);
            }
        }
        for (table, keys) in &self.evicted {
            keys.iter().for_each(|key| encoder.evict(table, key));
        }
        for (set, start, bytes) in &self.pieces {
            encoder.push_piece(*set, *start, bytes.clone());
        }
        let is_empty = self.groups.is_empty() && self.evicted.is_empty() && self.pieces.is_empty();
        assert_eq!(encoder.is_empty(), is_empty);
        encoder.finish(self.header, codec)
    }

    pub(crate) fn decode(bytes: &[u8], codec: &dyn Codec) -> Result<Self, PayloadError> {
        let opened = Opened::open(bytes, codec)?;
        let payload = opened.payload()?;
        let groups = payload.groups().iter().map(|group| {
            let rows = (0..group.rows()).map(|row| Row {
                key: group.key(row).to_vec(),
                life: group.life(row),
                clock: group.clock(row),
                exceptions: group.exceptions(row).to_vec(),
                marks: group.marks(row),
                values: (0..group.columns().len())
                    .map(|column| group.value(row, column).to_value())
                    .collect(),
                references: (0..group.columns().len())
                    .filter_map(|column| Some((column as u16, group.reference(row, column)?)))
                    .collect(),
            });
            Rows {
                table: group.table().to_owned(),
                columns: group.columns().iter().map(|name| (*name).to_owned()).collect(),
                whole: group.whole(),
                concurrent: group.concurrent(),
                inserted: group.inserted(),
                rows: rows.collect(),
            }
        });
        let evicted = payload.evicted().iter().map(|evicted| {
            let keys = (0..evicted.rows()).map(|row| evicted.key(row).to_vec());
            (evicted.table().to_owned(), keys.collect())
        });
        let pieces = payload.pieces().iter().map(|piece| (piece.set, piece.start, piece.bytes.to_vec()));
        Ok(Self {
            header: payload.header(),
            sites: payload.sites().to_vec(),
            groups: groups.collect(),
            evicted: evicted.collect(),
            pieces: pieces.collect(),
        })
    }
}

pub(crate) fn clock(time: u64, site: u32) -> Clock {
    Clock::new(Time(time), SiteOrdinal(site))
}

/// A stored payload with `raw` as its body, and a checksum that fits.
pub(crate) fn seal_raw(raw: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc5, 0x5c, 1, 1, 0, 0, 0];
    cloudsync_core::bytes::put_varint(&mut bytes, raw.len() as u64);
    bytes.extend_from_slice(raw);
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The body of the chunk as it is before compression.
pub(crate) fn raw_body(chunk: &Chunk) -> Vec<u8> {
    let header = Header::default();
    let bytes = Chunk { header, ..chunk.clone() }.encode(&Stored);
    let raw_bytes = Opened::open(&bytes, &Stored).unwrap().raw_bytes();
    bytes[bytes.len() - 8 - raw_bytes..bytes.len() - 8].to_vec()
}
