//! Lists of integers: the encoding under times, sites, lengths, indexes and values alike.

use super::{PayloadError, malformed};
use alloc::vec::Vec;
use cloudsync_core::bytes::{Reader, put_varint, put_zigzag, unzigzag, zigzag};

const MODE_CONSTANT: u8 = 0;
const MODE_LINEAR: u8 = 1;
const MODE_VARINTS: u8 = 2;
const MODE_DELTAS: u8 = 3;
const MODE_PACKED: u8 = 4;

/// What one pass over a list finds out about it.
struct Shape {
    min: i64,
    max: i64,
    step: Option<i64>,
    varints_bytes: usize,
    deltas_bytes: usize,
}

impl Shape {
    fn of(first: i64, rest: &[i64]) -> Self {
        let step = rest.first().map_or(0, |second| second.wrapping_sub(first));
        let first_bytes = varint_bytes(zigzag(first));
        let (mut min, mut max, mut last, mut is_linear) = (first, first, first, true);
        let (mut varints_bytes, mut deltas_bytes) = (first_bytes, first_bytes);
        for &value in rest {
            let delta = value.wrapping_sub(last);
            last = value;
            min = min.min(value);
            max = max.max(value);
            is_linear &= delta == step;
            varints_bytes += varint_bytes(zigzag(value));
            deltas_bytes += varint_bytes(zigzag(delta));
        }
        Self { min, max, step: is_linear.then_some(step), varints_bytes, deltas_bytes }
    }

    /// The base and the bits of each value when packed.
    const fn packing(&self) -> (i64, u8) {
        let bits = 64 - (self.max.wrapping_sub(self.min) as u64).leading_zeros();
        match bits {
            0..=2 => (self.min, if bits < 2 { 1 } else { 2 }),
            3..=4 => (self.min, 4),
            // Nothing is won by a base, and without it equal low bytes of values stay equal.
            57.. => (0, 64),
            _ => (self.min, bits.next_multiple_of(8) as u8),
        }
    }
}

/// Bytes of `value` as a varint.
pub(super) const fn varint_bytes(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Bytes of `count` values of `bits` bits.
const fn packed_bytes(count: usize, bits: u8) -> usize {
    if bits < 8 { (count * bits as usize).div_ceil(8) } else { count * (bits as usize / 8) }
}

/// Appends `values` in the smallest form; nothing for none. The reader must know their count.
pub(super) fn put(out: &mut Vec<u8>, values: &[i64]) {
    let Some((&first, rest)) = values.split_first() else { return };
    let shape = Shape::of(first, rest);
    if let Some(step) = shape.step {
        out.push(if step == 0 { MODE_CONSTANT } else { MODE_LINEAR });
        put_zigzag(out, first);
        if step != 0 {
            put_zigzag(out, step);
        }
        return;
    }
    let (base, bits) = shape.packing();
    let packed = packed_bytes(values.len(), bits) + 1 + varint_bytes(zigzag(base));
    if packed <= shape.varints_bytes && packed <= shape.deltas_bytes {
        put_packed(out, values, base, bits);
    } else if shape.varints_bytes <= shape.deltas_bytes {
        out.push(MODE_VARINTS);
        values.iter().for_each(|value| put_zigzag(out, *value));
    } else {
        out.push(MODE_DELTAS);
        let mut last = 0;
        for &value in values {
            put_varint(out, zigzag(value.wrapping_sub(last)));
            last = value;
        }
    }
}

fn put_packed(out: &mut Vec<u8>, values: &[i64], base: i64, bits: u8) {
    out.push(MODE_PACKED);
    out.push(bits);
    put_zigzag(out, base);
    if bits < 8 {
        for group in values.chunks(8 / usize::from(bits)) {
            let mut byte = 0;
            for (i, value) in group.iter().enumerate() {
                byte |= (value.wrapping_sub(base) as u8) << (i * usize::from(bits));
            }
            out.push(byte);
        }
    } else {
        for shift in (0..bits).step_by(8) {
            out.extend(values.iter().map(|value| (value.wrapping_sub(base) as u64 >> shift) as u8));
        }
    }
}

/// A list of integers that lies in a body; reads any of them at once.
#[derive(Debug)]
pub(super) enum Ints<'a> {
    Linear {
        first: i64,
        step: i64,
    },
    /// `bits` is 1, 2 or 4.
    Bits {
        base: i64,
        bits: u8,
        bytes: &'a [u8],
    },
    /// Byte planes of `count` bytes each, the lowest first.
    Planes {
        base: i64,
        count: usize,
        planes: &'a [u8],
    },
    List(Vec<i64>),
}

impl<'a> Ints<'a> {
    /// Reads a list of `count` integers. Takes memory for at most 8 bytes for each byte read.
    pub(super) fn read(reader: &mut Reader<'a>, count: usize) -> Result<Self, PayloadError> {
        if count == 0 {
            return Ok(Self::Linear { first: 0, step: 0 });
        }
        match reader.byte()? {
            MODE_CONSTANT => Ok(Self::Linear { first: reader.zigzag()?, step: 0 }),
            MODE_LINEAR => Ok(Self::Linear { first: reader.zigzag()?, step: reader.zigzag()? }),
            MODE_VARINTS => Self::read_list(reader, count, |_, value| value),
            MODE_DELTAS => Self::read_list(reader, count, i64::wrapping_add),
            MODE_PACKED => {
                let bits = reader.byte()?;
                let base = reader.zigzag()?;
                if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 24 | 32 | 40 | 48 | 56 | 64) {
                    return Err(malformed("integer width"));
                }
                let bytes = reader.take(packed_bytes(count, bits))?;
                Ok(if bits < 8 {
                    Self::Bits { base, bits, bytes }
                } else {
                    Self::Planes { base, count, planes: bytes }
                })
            }
            _ => Err(malformed("integer mode")),
        }
    }

    fn read_list(
        reader: &mut Reader<'a>,
        count: usize,
        next: impl Fn(i64, i64) -> i64,
    ) -> Result<Self, PayloadError> {
        // Each varint has a byte at least.
        if count > reader.remaining() {
            return Err(malformed("integer count"));
        }
        let mut list = Vec::with_capacity(count);
        let mut last = 0;
        for _ in 0..count {
            last = next(last, unzigzag(reader.varint()?));
            list.push(last);
        }
        Ok(Self::List(list))
    }

    /// The value at `index`, which must be below the count.
    #[inline]
    pub(super) fn get(&self, index: usize) -> i64 {
        match self {
            Self::Linear { first, step } => first.wrapping_add(step.wrapping_mul(index as i64)),
            Self::Bits { base, bits, bytes } => {
                let at = index * usize::from(*bits);
                let value = bytes[at / 8] >> (at % 8) & ((1 << bits) - 1);
                base.wrapping_add(i64::from(value))
            }
            Self::Planes { base, count, planes } => {
                let mut value = 0u64;
                let (mut at, mut shift) = (index, 0);
                while at < planes.len() {
                    value |= u64::from(planes[at]) << shift;
                    at += count;
                    shift += 8;
                }
                base.wrapping_add(value as i64)
            }
            Self::List(list) => list[index],
        }
    }

    /// The value that all have, when the encoding says that they are equal.
    pub(super) const fn constant(&self) -> Option<i64> {
        match self {
            Self::Linear { first, step: 0 } => Some(*first),
            _ => None,
        }
    }

    /// Checks that the `count` values lie in `min..=max`; `what` names them.
    pub(super) fn check(
        &self,
        count: usize,
        min: i64,
        max: i64,
        what: &'static str,
    ) -> Result<(), PayloadError> {
        let count = if self.constant().is_some() { count.min(1) } else { count };
        let ok = (0..count).all(|index| (min..=max).contains(&self.get(index)));
        if ok { Ok(()) } else { Err(malformed(what)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[i64]) -> usize {
        let mut out = Vec::new();
        put(&mut out, values);
        let mut reader = Reader::new(&out);
        let ints = Ints::read(&mut reader, values.len()).unwrap();
        assert!(reader.is_empty());
        for (index, value) in values.iter().enumerate() {
            assert_eq!(ints.get(index), *value);
        }
        out.len()
    }

    proptest! {
        #[test]
        fn any_list_round_trips(values: Vec<i64>, shift in 0u32..64, base: i64) {
            round_trip(&values);
            let narrow: Vec<_> = values.iter().map(|v| base.wrapping_add((*v as u64 >> shift) as i64)).collect();
            round_trip(&narrow);
        }
    }

    fn listed(value: impl Fn(i64) -> i64) -> Vec<i64> {
        (0..1000).map(value).collect()
    }

    #[test]
    fn each_shape_has_its_form() {
        assert_eq!(round_trip(&[]), 0);
        assert_eq!(round_trip(&[7; 1000]), 2, "constant");
        assert_eq!(round_trip(&listed(|i| i * 3)), 3, "linear");
        assert_eq!(round_trip(&listed(|i| i * i % 2 + 4)), 3 + 1000 / 8, "a bit each");
        assert_eq!(round_trip(&listed(|i| i * 7919 % 250 + 1_000_000)), 2 + 3 + 1000, "a byte each");
        assert_eq!(round_trip(&listed(|i| i * 1_000_000 + i % 7)), 1 + 1 + 999 * 3, "differences");
        assert_eq!(
            round_trip(&listed(|i| if i == 500 { 1 << 40 } else { i % 3 })),
            1 + 999 + 6,
            "as they are"
        );
        assert_eq!(round_trip(&[i64::MIN, i64::MAX, i64::MAX]), 1 + 10 + 1 + 1, "no overflow");
    }

    #[test]
    fn a_count_beyond_the_data_is_refused_before_memory_is_taken() {
        for mode in [MODE_VARINTS, MODE_DELTAS] {
            assert!(Ints::read(&mut Reader::new(&[mode, 1, 1]), usize::MAX).is_err());
        }
        assert!(Ints::read(&mut Reader::new(&[MODE_PACKED, 8, 0, 1]), 1 << 60).is_err());
        assert!(Ints::read(&mut Reader::new(&[MODE_PACKED, 3, 0, 1]), 1).is_err(), "a width that is no form");
    }
}
