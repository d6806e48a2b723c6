//! Changes inputs at random, from a seed.

/// Draws inputs from those that are kept.
pub(crate) struct Mutator {
    corpus: Vec<Vec<u8>>,
    bytes_max: usize,
    state: u64,
}

impl Mutator {
    /// One that draws the same for the same seed and inputs.
    pub(crate) fn new(corpus: Vec<Vec<u8>>, bytes_max: usize, seed: u64) -> Self {
        assert!(!corpus.is_empty(), "there is nothing to change");
        Self { corpus, bytes_max, state: seed }
    }

    /// Another input.
    pub(crate) fn draw(&mut self) -> Vec<u8> {
        let mut bytes = self.kept();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes.truncate(self.bytes_max);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: [u8; 9] = [0, 1, 2, 0x3f, 0x7f, 0x80, 0x81, 0xfe, 0xff];
        let at = self.below(bytes.len() + 1);
        let length = self.below(1 + 8.min(bytes.len() - at));
        match self.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = TELLING[self.below(TELLING.len())],
            2 => drop(bytes.drain(at..at + length)),
            3 => drop(bytes.splice(at..at, vec![TELLING[self.below(TELLING.len())]; 1 + self.below(10)])),
            4 => {
                let part = bytes[at..at + length].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                // The beginning of one and the end of another.
                let other = self.kept();
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
            6 => {
                // A part of another one within.
                let other = self.kept();
                let from = self.below(other.len() + 1);
                let to = (from + 1 + self.below(24)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            7 => bytes.truncate(at),
            _ if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1 + self.below(255) as u8),
            _ => bytes.push(self.below(256) as u8),
        }
    }

    fn kept(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        self.corpus[at].clone()
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}
