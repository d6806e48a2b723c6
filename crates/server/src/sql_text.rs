//! The words of a text of SQL, for what is decided before SQLite parses it.

/// Bytes of the token at the beginning of a text that begins with `character`: a word, a quoted text, a comment, or
/// the character itself.
pub(crate) fn token_bytes(text: &str, character: char) -> usize {
    let until =
        |end: &str, skip: usize| text[skip..].find(end).map_or(text.len(), |at| skip + at + end.len());
    match character {
        '\'' => until("'", 1),
        '"' => until("\"", 1),
        '`' => until("`", 1),
        '[' => until("]", 1),
        '-' if text.starts_with("--") => until("\n", 2),
        '/' if text.starts_with("/*") => until("*/", 2),
        _ if character.is_alphanumeric() || character == '_' => {
            let is_outside = |character: char| !character.is_alphanumeric() && character != '_';
            text.find(is_outside).unwrap_or(text.len())
        }
        _ => character.len_utf8(),
    }
}
