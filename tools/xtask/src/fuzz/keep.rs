//! What `--keep` leaves of a target in the repository: all that was made by hand, and of what libFuzzer found as much as
//! reaches code that the others do not, smallest first.
//!
//! At each moment the folder has what it had before or what it shall have, or more: an end in between loses nothing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Most found files of a target, and bytes of them.
const FILES_MAX: usize = 300;
const BYTES_MAX: u64 = 128 << 10;
/// What a file is called until all of it is there.
const PART: &str = "part";

/// Copies what was made by hand; gives its number.
pub(super) fn copy_made(kept: &Path, to: &Path) -> Result<usize> {
    let made: Vec<_> = names(kept)?.into_iter().filter(|name| !is_found(name)).collect();
    for name in &made {
        copy(&kept.join(name), &to.join(name))?;
    }
    Ok(made.len())
}

/// True when libFuzzer came to the end of a merge. One that was interrupted ends like one that succeeded.
pub(super) fn is_whole(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("MERGE-OUTER: ") && line.contains(" new files with "))
}

/// Makes the found ones among the inputs in `kept` those in `merged`, as many as there is room for; gives their number.
pub(super) fn rewrite(kept: &Path, merged: &Path) -> Result<usize> {
    let mut files = Vec::new();
    for name in names(merged)?.into_iter().filter(is_found) {
        files.push((fs::metadata(merged.join(&name))?.len(), name));
    }
    files.sort();
    let room = files.into_iter().take(FILES_MAX).scan(0, |bytes, (length, name)| {
        *bytes += length;
        (*bytes <= BYTES_MAX).then_some(name)
    });
    let wanted: BTreeSet<OsString> = room.collect();
    for name in &wanted {
        let (part, whole) = (kept.join(name).with_extension(PART), kept.join(name));
        copy(&merged.join(name), &part)?;
        fs::rename(&part, &whole).with_context(|| whole.display().to_string())?;
    }
    for name in names(kept)?.into_iter().filter(|name| is_found(name) && !wanted.contains(name)) {
        let path = kept.join(name);
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
    }
    Ok(wanted.len())
}

/// True for the name that libFuzzer gives an input, 40 hexadecimal digits, and for what is left of an interrupted copy.
fn is_found(name: &OsString) -> bool {
    let path = Path::new(name);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let is_hash = stem.len() == 40 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && path.extension().is_none_or(|extension| extension == PART)
}

fn names(folder: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("{} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders of inputs, by names and lengths.
    fn folder(files: &[(&str, usize)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, length) in files {
            fs::write(folder.path().join(name), vec![7; *length]).unwrap();
        }
        folder
    }

    fn list(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            names(folder).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn hash(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[test]
    fn what_was_made_by_hand_stays_and_what_reaches_nothing_goes() {
        let (old, new, part) = (hash('a'), hash('b'), format!("{}.part", hash('c')));
        let kept =
            folder(&[("0a086577679d0dec", 3), ("by a person", 4), (&old, 5), (&hash('d'), 6), (&part, 1)]);
        let merged = tempfile::tempdir().unwrap();
        assert_eq!(copy_made(kept.path(), merged.path()).unwrap(), 2);
        assert_eq!(list(merged.path()), ["0a086577679d0dec", "by a person"]);
        for name in [&old, &new] {
            fs::write(merged.path().join(name), b"merged").unwrap();
        }
        assert_eq!(rewrite(kept.path(), merged.path()).unwrap(), 2);
        assert_eq!(list(kept.path()), ["0a086577679d0dec", &*old, &*new, "by a person"]);
        assert_eq!(fs::read(kept.path().join(&new)).unwrap(), b"merged");
    }

    #[test]
    fn small_ones_come_first_and_those_made_by_hand_take_no_room() {
        let most = BYTES_MAX as usize;
        let kept = folder(&[("by a person", 2 * most), (&hash('a'), 9)]);
        let merged = folder(&[(&hash('1'), most - 2), (&hash('2'), 1), (&hash('3'), 1), (&hash('4'), most)]);
        assert_eq!(rewrite(kept.path(), merged.path()).unwrap(), 3);
        assert_eq!(list(kept.path()), [&*hash('1'), &*hash('2'), &*hash('3'), "by a person"]);
    }

    #[test]
    fn a_merge_that_was_interrupted_is_told_from_one_that_is_whole() {
        assert!(is_whole(
            "MERGE-OUTER: 3 files\nMERGE-OUTER: 0 new files with 0 new features added; 0 new\n"
        ));
        assert!(!is_whole(
            "MERGE-OUTER: 3 files, 1 in the initial corpus\nMERGE-INNER: using the control file"
        ));
    }
}
