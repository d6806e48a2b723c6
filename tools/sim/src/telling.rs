//! What is told of a history while it happens.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

/// Lines of a failed history that are shown.
const LINES_MAX: usize = 60;
/// Characters of a line that are shown.
const LINE_CHARS_MAX: usize = 300;

/// Who hears of what happens.
pub(crate) enum Telling {
    Nobody,
    /// Each line is printed at once.
    Print,
    /// The last lines are kept, for whoever holds the other end.
    Keep(Rc<RefCell<Lines>>),
}

/// The last lines of a history.
#[derive(Default)]
pub(crate) struct Lines {
    kept: VecDeque<String>,
    dropped: u64,
}

impl Telling {
    /// False when nobody listens.
    pub(crate) const fn is_heard(&self) -> bool {
        !matches!(self, Self::Nobody)
    }

    /// Tells what happened `at` so many milliseconds after the beginning.
    pub(crate) fn tell(&self, at: u64, text: &str) {
        match self {
            Self::Nobody => {}
            Self::Print => println!("{at:>8} {text}"),
            Self::Keep(lines) => lines.borrow_mut().push(format!("{at:>8} {text}")),
        }
    }
}

impl Lines {
    fn push(&mut self, mut line: String) {
        if let Some((end, _)) = line.char_indices().nth(LINE_CHARS_MAX) {
            line.truncate(end);
            line.push_str(" ...");
        }
        self.kept.push_back(line);
        if self.kept.len() > LINES_MAX {
            self.kept.pop_front();
            self.dropped += 1;
        }
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dropped > 0 {
            writeln!(f, "  ({} lines before these: --trace)", self.dropped)?;
        }
        self.kept.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let lines = Rc::new(RefCell::new(Lines::default()));
        let telling = Telling::Keep(Rc::clone(&lines));
        assert_eq!(lines.borrow().to_string(), "");
        (0..LINES_MAX as u64 + 3).for_each(|at| telling.tell(at, "it rains"));
        telling.tell(99, &"\u{e9}".repeat(LINE_CHARS_MAX));
        let shown = lines.borrow().to_string();
        assert!(shown.starts_with("  (4 lines before these: --trace)\n         4 it rains\n"), "{shown}");
        assert!(shown.ends_with("\u{e9} ...\n"));
        assert_eq!(shown.lines().count(), LINES_MAX + 1);
        assert!(telling.is_heard() && !Telling::Nobody.is_heard());
    }
}
