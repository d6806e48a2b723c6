//! What is in a file: blocks that copies share until one of them is written to.
//!
//! What a disk has for good is such a copy, which each sync brings up to date; and a file grows by one page at a time, which
//! would otherwise cost as much as it is long.

use std::sync::Arc;

/// Bytes of a block: a page of SQLite's, so that most writes of a database file replace one.
const BLOCK: usize = 4096;

type Block = Arc<[u8; BLOCK]>;

/// The bytes of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    /// As many as the length needs. What lies behind the length is zero.
    blocks: Vec<Block>,
    length: usize,
}

impl Content {
    /// The length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Fills the buffer with what is there from `at` on; gives how many bytes that were.
    pub(super) fn read(&self, at: usize, buffer: &mut [u8]) -> usize {
        let length = self.length.saturating_sub(at).min(buffer.len());
        let mut done = 0;
        while done < length {
            let (block, from) = ((at + done) / BLOCK, (at + done) % BLOCK);
            let count = (BLOCK - from).min(length - done);
            buffer[done..done + count].copy_from_slice(&self.blocks[block][from..from + count]);
            done += count;
        }
        length
    }

    /// Writes at a place, behind zeros if the file ends before it.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.reach(at + bytes.len());
        let mut done = 0;
        while done < bytes.len() {
            let (block, from) = ((at + done) / BLOCK, (at + done) % BLOCK);
            let count = (BLOCK - from).min(bytes.len() - done);
            let part = &bytes[done..done + count];
            let block = &mut self.blocks[block];
            match <[u8; BLOCK]>::try_from(part) {
                // Nothing is left of what was there, so it need not be copied first.
                Ok(whole) if Arc::get_mut(block).is_none() => *block = Arc::new(whole),
                _ => Arc::make_mut(block)[from..from + count].copy_from_slice(part),
            }
            done += count;
        }
    }

    /// Is as long as this at least.
    fn reach(&mut self, length: usize) {
        if length > self.length {
            self.blocks.resize_with(length.div_ceil(BLOCK), || Arc::new([0; BLOCK]));
            self.length = length;
        }
    }

    /// Takes over so many bytes at a place, and with them the blocks in which they lie, from a content that differs in nothing
    /// but what is taken over or cut off next.
    pub(super) fn take_over(&mut self, other: &Self, at: usize, length: usize) {
        self.reach(at + length);
        let touched = at / BLOCK..(at + length).div_ceil(BLOCK).min(other.blocks.len());
        for block in touched {
            self.blocks[block] = Arc::clone(&other.blocks[block]);
        }
    }

    /// Cuts off what is behind this length.
    pub(super) fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        self.blocks.truncate(length.div_ceil(BLOCK));
        if let Some(last) = self.blocks.last_mut().filter(|_| !length.is_multiple_of(BLOCK)) {
            Arc::make_mut(last)[length % BLOCK..].fill(0);
        }
        self.length = length;
    }

    /// Everything, in one piece at the end of `out`.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.length;
        self.blocks.iter().for_each(|block| out.extend_from_slice(&**block));
        out.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Dice;

    fn all(content: &Content) -> Vec<u8> {
        let mut out = vec![7];
        content.append_to(&mut out);
        out.split_off(1)
    }

    #[test]
    fn what_is_read_is_what_a_plain_vector_has_and_copies_stay_as_they_are() {
        let mut dice = Dice::new(11);
        let (mut content, mut plain) = (Content::default(), Vec::new());
        let mut copies = Vec::new();
        let (mut behind, mut steps) = (Content::default(), Vec::new());
        for step in 0..2_000_u64 {
            let at = dice.below(5 * BLOCK as u64) as usize;
            if dice.chance(100) {
                content.truncate(at);
                plain.truncate(at);
                steps.push((at, None));
            } else {
                let length = *dice.pick(&[0, 1, 24, 512, BLOCK, BLOCK, 2 * BLOCK + 3]);
                let at = if dice.chance(500) { at - at % BLOCK } else { at };
                let bytes = vec![step as u8; length];
                if length > 0 {
                    content.write(at, &bytes);
                    steps.push((at, Some(length)));
                    plain.resize(plain.len().max(at + length), 0);
                    plain[at..at + length].copy_from_slice(&bytes);
                }
            }
            assert_eq!(content.len(), plain.len());
            let mut buffer = vec![9; 700];
            let at = dice.below(plain.len() as u64 + 10) as usize;
            let count = content.read(at, &mut buffer);
            assert_eq!(
                buffer[..count],
                plain[at.min(plain.len())..(at + 700).min(plain.len()).max(at.min(plain.len()))]
            );
            if dice.chance(100) {
                for (at, length) in steps.drain(..) {
                    match length {
                        Some(length) => behind.take_over(&content, at, length),
                        None => behind.truncate(at),
                    }
                }
                assert_eq!(all(&behind), plain);
            }
            if dice.chance(20) {
                copies.push((content.clone(), plain.clone()));
            }
        }
        assert!(copies.iter().all(|(content, plain)| all(content) == *plain));
    }
}
