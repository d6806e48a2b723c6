//! Planting: source in which every mistake is there, and none of them works until it is chosen.
//!
//! Compiling takes far longer than the tests that catch a mistake. So the body of each function becomes a choice between
//! copies of itself, each with one mistake, and everything is compiled once:
//!
//! ```text
//! fn is_less(a: u8, b: u8) -> bool {
//!     match crate::planted_mistakes::chosen(4) {
//!         17 => { a <= b }
//!         18 => { a > b }
//!         _ => { a < b }
//!     }
//! }
//! ```
//!
//! The number of the mistake is in an environment variable. Where there is none, the functions that are entered are noted in a
//! file: that is how one knows which tests can meet which mistake.

use std::collections::BTreeMap;
use std::ops::Range;

use super::results::{Mutant, Place};

/// The number of the mistake.
pub(super) const CHOSEN: &str = "PLANTED_MISTAKE";
/// Where functions that are entered are noted, one number to a line.
pub(super) const TRACE: &str = "PLANTED_TRACE";

/// What a root begins with: a mistake that only looks wrong is one for the tests.
pub(super) const ALLOWED: &str = "#![allow(warnings, arithmetic_overflow, unconditional_panic)]\n";

/// A file with mistakes.
pub(super) struct Planted {
    pub(super) text: String,
    /// Which lines, from 1, belong to which mistake, so that the compiler's errors can be told apart.
    pub(super) lines: Vec<(Range<usize>, u32)>,
    /// The numbers of the functions, each with its mistakes.
    pub(super) functions: Vec<(u32, Vec<u32>)>,
}

/// Whether a mistake can be one of several copies: outside of functions there is no choice, and copies have not the one opaque
/// type that `impl Trait` stands for.
pub(super) fn can_be_chosen(mutant: &Mutant) -> bool {
    mutant.function.as_ref().is_some_and(|function| !function.is_opaque)
}

/// Plants mistakes of one file, each by its number. Functions are numbered from `first`. All of them [`can_be_chosen`].
pub(super) fn plant(source: &str, mutants: &[(u32, &Mutant)], first: u32) -> Planted {
    let lines = Lines::of(source);
    let mut functions: BTreeMap<usize, (Range<usize>, Vec<_>)> = BTreeMap::new();
    for (number, mutant) in mutants {
        let Some(function) = &mutant.function else { continue };
        let span = lines.range(&function.place);
        functions.entry(span.start).or_insert((span, Vec::new())).1.push((*number, *mutant));
    }
    let mut planted = Planted { text: String::new(), lines: Vec::new(), functions: Vec::new() };
    let mut written = 0;
    let mut functions = functions.into_values().peekable();
    while let Some((span, mut mutants)) = functions.next() {
        // A function within another one is a part of each of its copies.
        while let Some((_, inner)) = functions.next_if(|(inner, _)| inner.start < span.end) {
            mutants.extend(inner);
        }
        let Some(open) = body(&source[span.clone()]).map(|offset| span.start + offset) else { continue };
        let body = open + 1..span.end - 1;
        let number = first + planted.functions.len() as u32;
        planted.text += &source[written..span.start];
        // What chooses is not known when constants are computed.
        planted.text += &source[span.start..open].replacen("const fn ", "fn ", 1);
        planted.text += &format!("{{ match crate::planted_mistakes::chosen({number}) {{\n");
        for (id, mutant) in &mutants {
            let from = line_count(&planted.text);
            let place = lines.range(&mutant.place);
            let (before, after) = (&source[body.start..place.start], &source[place.end..body.end]);
            planted.text += &format!("{id} => {{ {before} {} {after}\n}}\n", mutant.replacement);
            planted.lines.push((from..line_count(&planted.text), *id));
        }
        planted.text += &format!("_ => {{ {}\n}} }} }}", &source[body]);
        planted.functions.push((number, mutants.iter().map(|(id, _)| *id).collect()));
        written = span.end;
    }
    planted.text += &source[written..];
    planted
}

/// The source with one mistake and nothing else.
pub(super) fn plant_alone(source: &str, mutant: &Mutant) -> String {
    let place = Lines::of(source).range(&mutant.place);
    format!("{} {} {}", &source[..place.start], mutant.replacement, &source[place.end..])
}

/// The module that chooses, to be added to the root of a crate with so many functions.
pub(super) fn chooser(functions: u32) -> String {
    // A mistake in a crate that knows no standard library is still tested where there is one.
    format!(
        "
#[doc(hidden)]
#[allow(warnings, clippy::all)]
pub mod planted_mistakes {{
    extern crate std;
    use std::sync::OnceLock;
    use std::sync::atomic::{{AtomicBool, Ordering}};
    static CHOSEN: OnceLock<u32> = OnceLock::new();
    static ENTERED: [AtomicBool; {functions} + 1] = [const {{ AtomicBool::new(false) }}; {functions} + 1];
    pub fn chosen(function: u32) -> u32 {{
        let number = |text: std::string::String| text.parse().ok();
        let chosen = *CHOSEN.get_or_init(|| std::env::var(\"{CHOSEN}\").ok().and_then(number).unwrap_or(0));
        if chosen == 0 && !ENTERED[function as usize].swap(true, Ordering::Relaxed) {{
            if let Some(path) = std::env::var_os(\"{TRACE}\") {{
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                let line = std::format!(\"{{function}}\\n\");
                let _ = std::io::Write::write_all(&mut file.unwrap(), line.as_bytes());
            }}
        }}
        chosen
    }}
}}
"
    )
}

fn line_count(text: &str) -> usize {
    text.matches('\n').count() + 1
}

/// Where the body of a function begins: at the first brace that is not within attributes, comments, strings or the arguments.
fn body(function: &str) -> Option<usize> {
    let bytes = function.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => at += function[at..].find('\n')?,
            b'/' if bytes.get(at + 1) == Some(&b'*') => at += function[at..].find("*/")? + 1,
            b'"' => {
                at += 1;
                while *bytes.get(at)? != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where each line begins.
struct Lines<'s> {
    source: &'s str,
    starts: Vec<usize>,
}

impl<'s> Lines<'s> {
    fn of(source: &'s str) -> Self {
        let ends = source.match_indices('\n').map(|(at, _)| at + 1);
        Self { source, starts: std::iter::once(0).chain(ends).collect() }
    }

    fn range(&self, place: &Place) -> Range<usize> {
        self.offset(place.start)..self.offset(place.end)
    }

    /// Of a line and a column, both from 1; columns are characters.
    fn offset(&self, (line, column): (usize, usize)) -> usize {
        let start = self.starts.get(line - 1).copied().unwrap_or(self.source.len());
        let rest = &self.source[start..];
        start + rest.char_indices().nth(column - 1).map_or(rest.len(), |(offset, _)| offset)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::results::Function;
    use super::*;

    const SOURCE: &str = "use x;\n\
        #[a(\"{\")] // {\n\
        const fn f(a: [u8; 2]) -> bool {\n\
        a < b\n\
        }\n\
        fn g() { h(1) }\n";

    fn place([line, column, last_line, last_column]: [usize; 4]) -> Place {
        Place { start: (line, column), end: (last_line, last_column) }
    }

    fn mutant(at: [usize; 4], replacement: &str, function: [usize; 4]) -> Mutant {
        Mutant {
            key: String::new(),
            name: String::new(),
            file: String::new(),
            place: place(at),
            replacement: replacement.to_owned(),
            function: Some(Function { place: place(function), is_opaque: false }),
        }
    }

    #[test]
    fn a_body_becomes_a_choice_between_its_copies() {
        let less = mutant([4, 3, 4, 4], "<=", [2, 1, 5, 2]);
        let value = mutant([4, 1, 4, 6], "true", [2, 1, 5, 2]);
        let other = mutant([6, 10, 6, 14], "()", [6, 1, 6, 16]);
        let planted = plant(SOURCE, &[(7, &less), (8, &value), (9, &other)], 3);
        assert_eq!(
            planted.text,
            "use x;\n#[a(\"{\")] // {\nfn f(a: [u8; 2]) -> bool { match crate::planted_mistakes::chosen(3) {\n\
             7 => { \na  <=  b\n\n}\n8 => { \n true \n\n}\n_ => { \na < b\n\n} } }\n\
             fn g() { match crate::planted_mistakes::chosen(4) {\n9 => {   ()  \n}\n_ => {  h(1) \n} } }\n"
        );
        assert_eq!(planted.functions, [(3, vec![7, 8]), (4, vec![9])]);
        assert_eq!(planted.lines[..2], [(4..8, 7), (8..12, 8)]);
    }

    #[test]
    fn a_function_within_another_one_is_a_part_of_its_copies() {
        let source = "fn f() {\nfn g() { 1 }\n2\n}\n";
        let inner = mutant([2, 10, 2, 11], "0", [2, 1, 2, 13]);
        let outer = mutant([3, 1, 3, 2], "3", [1, 1, 4, 2]);
        let planted = plant(source, &[(1, &inner), (2, &outer)], 0);
        assert_eq!(planted.functions, [(0, vec![2, 1])]);
        assert!(planted.text.contains("1 => { \nfn g() {  0  }\n2"), "{}", planted.text);
    }

    #[test]
    fn one_mistake_alone_is_the_source_with_it() {
        let less = mutant([4, 3, 4, 4], ">", [2, 1, 5, 2]);
        assert_eq!(plant_alone(SOURCE, &less), SOURCE.replace("a < b", "a  >  b"));
    }
}
