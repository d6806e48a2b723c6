//! Byte planes: strings of one length, transposed, so that what is alike lies together.

use super::{PayloadError, malformed};
use alloc::vec;
use alloc::vec::Vec;
use cloudsync_core::bytes::Reader;

const PLANE_CONSTANT: u8 = 0;
const PLANE_RAW: u8 = 1;
const PLANE_DELTAS: u8 = 2;

/// Longest strings that are transposed, in bytes.
pub(super) const WIDTH_MAX: usize = 64;

/// Planes that must be written in full, so that a reader never unfolds much from little.
const fn full_planes_min(width: usize) -> usize {
    width.div_ceil(4)
}

/// Number of planes of `rows` (strings of `width` bytes, one after the other) that hold one value only.
pub(super) fn constant_planes(rows: &[u8], width: usize) -> usize {
    let Some((first, rest)) = rows.split_at_checked(width) else { return 0 };
    let mut is_constant = [true; WIDTH_MAX];
    for row in rest.chunks_exact(width) {
        for ((flag, a), b) in is_constant.iter_mut().zip(first).zip(row) {
            *flag &= a == b;
        }
    }
    is_constant[..width].iter().filter(|flag| **flag).count()
}

/// Appends the planes of `rows`: strings of `width` bytes, 1 to [`WIDTH_MAX`], one after the other.
pub(super) fn put(out: &mut Vec<u8>, rows: &[u8], width: usize) {
    let count = rows.len() / width;
    let mut constants_left = width - full_planes_min(width);
    for plane in 0..width {
        let bytes = || rows[plane..].iter().step_by(width).copied();
        let first = rows.get(plane).copied().unwrap_or(0);
        let (mut last, mut is_constant, mut small_steps) = (first, true, 0);
        for byte in bytes() {
            is_constant &= byte == first;
            small_steps += usize::from(byte.wrapping_sub(last) <= 3);
            last = byte;
        }
        if is_constant && constants_left > 0 {
            constants_left -= 1;
            out.extend_from_slice(&[PLANE_CONSTANT, first]);
        } else if small_steps > count / 4 * 3 {
            out.push(PLANE_DELTAS);
            let mut last = 0u8;
            out.extend(bytes().map(|byte| {
                let delta = byte.wrapping_sub(last);
                last = byte;
                delta
            }));
        } else {
            out.push(PLANE_RAW);
            out.extend(bytes());
        }
    }
}

/// Reads `count` strings of `width` bytes back, one after the other. Takes memory for at most 4 bytes for each byte
/// read.
pub(super) fn read(reader: &mut Reader<'_>, count: usize, width: usize) -> Result<Vec<u8>, PayloadError> {
    let mut ahead = *reader;
    let mut full_planes = 0;
    for _ in 0..width {
        match ahead.byte()? {
            PLANE_CONSTANT => ahead.take(1)?,
            PLANE_RAW | PLANE_DELTAS => {
                full_planes += 1;
                ahead.take(count)?
            }
            _ => return Err(malformed("plane mode")),
        };
    }
    if full_planes < full_planes_min(width) {
        return Err(malformed("plane count"));
    }
    let mut rows = vec![0; count * width];
    for plane in 0..width {
        let places = rows[plane..].iter_mut().step_by(width);
        match reader.byte()? {
            PLANE_CONSTANT => {
                let byte = reader.byte()?;
                places.for_each(|place| *place = byte);
            }
            PLANE_RAW => places.zip(reader.take(count)?).for_each(|(place, byte)| *place = *byte),
            _ => {
                let mut last = 0u8;
                for (place, delta) in places.zip(reader.take(count)?) {
                    last = last.wrapping_add(*delta);
                    *place = last;
                }
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_strings_round_trip(width in 1usize..=WIDTH_MAX, bytes: Vec<u8>, zeros in 0usize..4) {
            let mut rows = bytes;
            rows.truncate(rows.len() / width * width);
            rows.extend(core::iter::repeat_n(0, zeros * width));
            prop_assume!(!rows.is_empty());
            let mut out = Vec::new();
            put(&mut out, &rows, width);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(read(&mut reader, rows.len() / width, width).unwrap(), rows);
            prop_assert!(reader.is_empty());
        }
    }

    #[test]
    fn many_strings_from_few_bytes_are_refused() {
        let constants = [PLANE_CONSTANT, 7].repeat(16);
        assert_eq!(read(&mut Reader::new(&constants), 1 << 18, 16), Err(malformed("plane count")));
    }
}
