#![allow(unsafe_code)]

use clap::{Args as _, Command, FromArgMatches as _};
use cloudsync_server::config::{Config, ConfigFile, FILE_NAME, Origin, Settings};

use crate::{input, scratch};

/// The choices: bit 0 stands for a file, else the rest is the value of a variable of the environment, chosen by the bits
/// above it.
pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    if choices & 1 == 0 {
        of_file(rest, choices & 2 != 0)
    } else {
        of_environment(rest, usize::from(choices >> 1))
    }
}

fn of_file(bytes: &[u8], may_name_folder: bool) {
    let folder = scratch::folder();
    let path = folder.path().join(FILE_NAME);
    std::fs::write(&path, bytes).unwrap();
    let shown = path.display().to_string();
    match ConfigFile::read(&path, may_name_folder) {
        Err(error) => assert!(error.to_line().contains(&shown), "{error}"),
        Ok(file) => {
            let matches = command().get_matches_from(["serve"]);
            match Config::load(Some(&file), &Settings::default(), &matches) {
                Err(error) => assert!(!error.to_line().is_empty()),
                Ok(config) => judge(&config),
            }
        }
    }
}

fn of_environment(bytes: &[u8], at: usize) {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')) else { return };
    let names = Settings::names();
    let name = &names[at % names.len()];
    let variable = format!("CLOUDSYNC_{}", name.to_uppercase());
    // SAFETY: both drivers run this target in a process and a thread of its own.
    unsafe { std::env::set_var(&variable, text) };
    let matches = command().try_get_matches_from(["serve"]);
    // SAFETY: as above.
    unsafe { std::env::remove_var(&variable) };
    let Ok(matches) = matches.map_err(|error| assert!(!error.to_string().is_empty())) else { return };
    let settings = Settings::from_arg_matches(&matches).unwrap();
    match Config::load(None, &settings, &matches) {
        Err(error) => {
            let line = error.to_line();
            assert!(line.contains(name.as_str()) || line.contains(&variable), "{variable}={text:?}: {line}");
        }
        Ok(config) => {
            judge(&config);
            let setting = config.effective().iter().find(|setting| setting.name == *name).unwrap();
            assert_eq!(setting.origin, Origin::Environment(variable));
        }
    }
}

fn command() -> Command {
    Settings::augment_args(Command::new("serve"))
}

/// A configuration that is taken is within its ranges, whoever set it.
fn judge(config: &Config) {
    for time in [config.idle, config.body, config.stop] {
        assert!((100..=86_400_000).contains(&time.as_millis()), "{config:?}");
    }
    assert!(config.request_bytes >= 4 << 10);
    assert!(config.key.requests_per_s <= 1_000_000 && config.user.listeners <= 1_000_000);
    assert_eq!(config.effective().len(), Settings::names().len());
}
