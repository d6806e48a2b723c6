//! Gathering byte strings and writing them in the form that suits them.

use super::strings::{
    MODE_CONSTANT, MODE_DICTIONARY, MODE_INTEGER_KEYS, MODE_NUMBERED, MODE_PLAIN, MODE_PLANES, MODE_UUIDS,
    UUID_BYTES, UUID_TEXT_BYTES, Use, pack_integer,
};
use super::{ints, planes};
use alloc::vec;
use alloc::vec::Vec;
use cloudsync_core::bytes::{put_bytes, put_varint};
use cloudsync_core::id::uuid_parse;
use cloudsync_core::key::{self, KeyPart};
use xxhash_rust::xxh3::xxh3_64;

/// Fewer strings than this are not worth a search for planes or numbers.
const SEARCH_ROWS_MIN: usize = 4;
/// Rows after which a dictionary is given up unless something has come twice by then.
const DICTIONARY_PROBE_ROWS: usize = 512;

/// Strings being gathered: their lengths, and their bytes one after the other.
#[derive(Debug, Default)]
pub(super) struct StringList {
    lengths: Vec<i64>,
    bytes: Vec<u8>,
}

impl StringList {
    pub(super) fn push(&mut self, string: &[u8]) {
        self.lengths.push(string.len() as i64);
        self.bytes.extend_from_slice(string);
    }

    pub(super) fn pop(&mut self) {
        if let Some(length) = self.lengths.pop() {
            self.bytes.truncate(self.bytes.len() - length as usize);
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.lengths.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map(move |length| {
            let (string, after) = rest.split_at(*length as usize);
            rest = after;
            string
        })
    }

    /// The length that all have, if they have one.
    fn width(&self) -> Option<usize> {
        let (first, rest) = self.lengths.split_first()?;
        rest.iter().all(|length| length == first).then_some(*first as usize)
    }

    /// Appends the strings in the form that suits them; nothing for none.
    pub(super) fn put(&self, out: &mut Vec<u8>, purpose: Use) {
        if self.is_empty() {
            return;
        }
        if purpose == Use::Keys && self.put_integer_keys(out) {
            return;
        }
        let width = self.width();
        if purpose == Use::Values && self.put_dictionary(out, width) {
            return;
        }
        if self.len() >= SEARCH_ROWS_MIN && self.put_numbered(out) {
            return;
        }
        if purpose != Use::Keys && width == Some(UUID_TEXT_BYTES) && self.put_uuids(out) {
            return;
        }
        if let Some(width @ 1..=planes::WIDTH_MAX) = width
            && self.len() >= SEARCH_ROWS_MIN
            && planes::constant_planes(&self.bytes, width) * 4 >= width
        {
            out.push(MODE_PLANES);
            put_varint(out, width as u64);
            planes::put(out, &self.bytes, width);
            return;
        }
        out.push(MODE_PLAIN);
        ints::put(out, &self.lengths);
        out.extend_from_slice(&self.bytes);
    }

    fn put_integer_keys(&self, out: &mut Vec<u8>) -> bool {
        let mut integers = Vec::new();
        let mut again = Vec::with_capacity(9);
        for packed in self.iter() {
            let Some(Ok(KeyPart::Integer(integer))) = key::unpack(packed).next() else { return false };
            if pack_integer(&mut again, integer) != packed {
                return false;
            }
            if integers.is_empty() {
                integers.reserve_exact(self.len());
            }
            integers.push(integer);
        }
        out.push(MODE_INTEGER_KEYS);
        ints::put(out, &integers);
        true
    }

    fn put_uuids(&self, out: &mut Vec<u8>) -> bool {
        let mut rows = Vec::new();
        for text in self.iter() {
            let Some(uuid) = uuid_parse(text) else { return false };
            if rows.is_empty() {
                rows.reserve_exact(self.len() * UUID_BYTES);
            }
            rows.extend_from_slice(&uuid);
        }
        out.push(MODE_UUIDS);
        planes::put(out, &rows, UUID_BYTES);
        true
    }

    /// Strings that differ in one decimal number only: `user7@example.com`.
    fn put_numbered(&self, out: &mut Vec<u8>) -> bool {
        let Some(first) = self.iter().next() else { return false };
        let Some(last_digit) = first.iter().rposition(u8::is_ascii_digit) else { return false };
        let digits = first[..=last_digit].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (prefix, suffix) = (&first[..last_digit + 1 - digits], &first[last_digit + 1..]);
        let mut numbers = Vec::new();
        for string in self.iter() {
            let number = string.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            let Some(number) = number.and_then(parse_number) else { return false };
            if numbers.len() == 1 {
                numbers.reserve_exact(self.len());
            }
            numbers.push(number);
        }
        out.push(MODE_NUMBERED);
        put_bytes(out, prefix);
        put_bytes(out, suffix);
        ints::put(out, &numbers);
        true
    }

    /// Each distinct string once and an index for each row, where that is smaller.
    fn put_dictionary(&self, out: &mut Vec<u8>, width: Option<usize>) -> bool {
        let Some((entries, indexes)) = self.distinct() else { return false };
        if entries.len() == 1 {
            out.push(MODE_CONSTANT);
            put_bytes(out, &entries.bytes);
            return true;
        }
        let row_bytes = |strings: &Self| match width {
            Some(UUID_TEXT_BYTES) => strings.len() * UUID_BYTES,
            Some(_) => strings.bytes.len(),
            None => strings.bytes.len() + strings.len(),
        };
        let index_bytes = self.len() * if entries.len() > 256 { 2 } else { 1 };
        if row_bytes(&entries) + index_bytes >= row_bytes(self) {
            return false;
        }
        out.push(MODE_DICTIONARY);
        put_varint(out, entries.len() as u64);
        entries.put(out, Use::Entries);
        ints::put(out, &indexes);
        true
    }

    /// The distinct strings in order of appearance and each row's index among them; `None` once it is plain that a
    /// dictionary does not pay.
    fn distinct(&self) -> Option<(Self, Vec<i64>)> {
        const FREE: u32 = u32::MAX;
        let entries_max = (self.len() / 2).clamp(1, usize::from(u16::MAX));
        let slots_count = (entries_max * 2).next_power_of_two();
        let mut slots = vec![FREE; slots_count];
        let mut entries = Self::default();
        let mut starts: Vec<usize> = Vec::new();
        let mut indexes = Vec::new();
        for (row, string) in self.iter().enumerate() {
            if row == DICTIONARY_PROBE_ROWS && entries.len() * 64 > row * 63 {
                return None;
            }
            let mut slot = xxh3_64(string) as usize & (slots_count - 1);
            let index = loop {
                let index = slots[slot];
                if index == FREE {
                    if entries.len() == entries_max {
                        return None;
                    }
                    slots[slot] = entries.len() as u32;
                    starts.push(entries.bytes.len());
                    entries.push(string);
                    break entries.len() - 1;
                }
                let index = index as usize;
                let start = starts[index];
                if entries.lengths[index] as usize == string.len()
                    && &entries.bytes[start..start + string.len()] == string
                {
                    break index;
                }
                slot = (slot + 1) & (slots_count - 1);
            };
            indexes.push(index as i64);
        }
        Some((entries, indexes))
    }
}

/// The number that `digits` spell as nobody would spell another: at most 18 digits, no needless zero before them.
fn parse_number(digits: &[u8]) -> Option<i64> {
    let is_plain = match digits {
        [] => false,
        [b'0', rest @ ..] => rest.is_empty(),
        _ => digits.len() <= 18,
    };
    let digit =
        |number: i64, digit: &u8| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'));
    if is_plain { digits.iter().try_fold(0, digit) } else { None }
}
