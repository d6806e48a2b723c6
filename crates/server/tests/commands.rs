//! The commands and the start of the server: what they print, and that every failure is one line with its remedy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Stdio;

use program::{Place, failure, text};

#[test]
fn dev_prints_what_to_paste_and_the_same_again() {
    let place = Place::new();
    let mut server = place.serve(&["--dev", "my_database"]);
    let lines: Vec<_> = (0..4).map(|_| server.next_line()).collect();
    assert_eq!(lines[0], ".load ./cloudsync");
    let connection = format!("cloudsync://{}/my_database", server.address);
    assert_eq!(lines[1], format!("SELECT cloudsync_network_init('{connection}');"));
    let key = lines[2].strip_prefix("SELECT cloudsync_network_set_apikey('").unwrap();
    let key = key.strip_suffix("');").unwrap();
    assert!(key.starts_with("csk_") && key.len() == 47, "{key}");
    assert_eq!(lines[3], "SELECT cloudsync_network_sync();");
    drop(server);
    let mut server = place.serve(&["--dev", "other"]);
    assert!(server.next_line().starts_with(".load"));
    assert!(server.next_line().ends_with("/other');"));
    assert_eq!(server.next_line(), lines[2]);
    assert!(place.run(&["db", "list", "--json"]).contains("\"my_database\""));
}

#[test]
fn a_revoked_dev_key_is_replaced() {
    let place = Place::new();
    let dev_key = || {
        let mut server = place.serve(&["--dev", "d"]);
        (0..3).map(|_| server.next_line()).last().unwrap()
    };
    let first = dev_key();
    place.run(&["key", "revoke", "1"]);
    let second = dev_key();
    assert_ne!(first, second);
    assert_eq!(second, dev_key());
}

#[test]
fn a_second_server_on_a_folder_is_refused() {
    let place = Place::new();
    let server = place.serve(&[]);
    let error = place.fail(&["serve", "--addr", "127.0.0.1:0"]);
    assert!(error.contains("another server uses the data folder"), "{error}");
    assert!(error.contains("--data-dir"), "{error}");
    drop(server);
    place.serve(&[]);
}

#[test]
fn a_used_port_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = Place::new().fail(&["serve", "--addr", &address]);
    assert!(error.contains(&format!("cannot listen on {address}")) && error.contains("--addr"), "{error}");
    let error = Place::new().fail(&["serve", "--addr", "nonsense"]);
    assert!(error.contains("cannot listen on nonsense"), "{error}");
}

#[test]
fn an_unwritable_folder_is_refused() {
    let place = Place::new();
    std::fs::write(&place.data, "a file").unwrap();
    let below = place.data.join("data");
    for arguments in [&["serve"][..], &["db", "create", "d"], &["key", "create"]] {
        let error = failure(&program::command(&below, arguments).output().unwrap());
        assert!(error.contains("cannot use the data folder"), "{error}");
    }
    for arguments in [&["db", "list"][..], &["key", "list"], &["db", "path", "d"], &["table", "list", "d"]] {
        let error = failure(&program::command(&below, arguments).output().unwrap());
        assert!(error.contains("no data folder at"), "{error}");
    }
}

#[test]
fn a_newer_format_is_refused_by_every_command() {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let control = rusqlite::Connection::open(place.data.join("control.db")).unwrap();
    control.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(control);
    for arguments in [&["serve"][..], &["db", "list"], &["key", "create"]] {
        let error = place.fail(arguments);
        assert!(error.contains("format 99") && error.contains("use a newer cloudsync"), "{error}");
    }
}

#[test]
fn names_that_are_none_and_names_that_are_missing() {
    let place = Place::new();
    for arguments in
        [&["serve", "--dev", "../up"][..], &["db", "create", "a b"], &["key", "create", "--database", ""]]
    {
        let error = place.fail(arguments);
        assert!(error.contains("is not a database name"), "{error}");
    }
    assert!(!place.data.exists());
    place.run(&["db", "create", "one"]);
    assert!(place.fail(&["db", "create", "one"]).contains("exists already"));
    assert!(place.fail(&["db", "create", "ONE"]).contains("exists already"));
    for arguments in [
        &["db", "path", "two"][..],
        &["db", "sql", "two", "-"],
        &["key", "create", "--database", "two"],
        &["table", "list", "two"],
    ] {
        let error = place.fail(arguments);
        assert!(error.contains("there is no database two: create it with"), "{error}");
    }
    assert!(place.fail(&["key", "revoke", "csk_none"]).contains("`cloudsync key list`"));
}

#[test]
fn a_warning_says_that_keys_travel_in_the_clear() {
    let place = Place::new();
    let server =
        place.command(["serve", "--addr", "0.0.0.0:0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut server = server.unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stderr.take().unwrap()), &mut line)
        .unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.starts_with("warning: keys and data travel in the clear"), "{line}");
}

#[test]
fn sql_runs_on_the_file_beside_a_server() {
    let place = Place::new();
    let server = place.serve(&["--dev", "d"]);
    let sql = |text: &str, json: bool| {
        let arguments = ["db", "sql", "d", "-", "--json"];
        let mut command = place.command(&arguments[..if json { 5 } else { 4 }]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output =
        sql("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (NULL, x'00'); SELECT * FROM t;", false);
    assert_eq!(text(&output.stdout), "1|x\n|X'00'\n", "{}", text(&output.stderr));
    assert_eq!(text(&sql("SELECT * FROM t WHERE a", true).stdout), "{\"a\":1,\"b\":\"x\"}\n");

    let error = failure(&sql("INSERT INTO t VALUES (2, 2); INSERT INTO none VALUES (1)", false));
    assert!(error.contains("d, statement 2: no such table: none"), "{error}");
    assert_eq!(text(&sql("SELECT count(*) FROM t", false).stdout), "2\n");
    let error = failure(&sql("BEGIN; DELETE FROM t; COMMIT; BEGIN; INSERT INTO t VALUES (3, 3)", false));
    assert!(error.contains("leaves its transaction open"), "{error}");
    assert_eq!(text(&sql("SELECT count(*) FROM t", false).stdout), "0\n");
    drop(server);

    let path = place.run(&["db", "path", "d"]);
    let connection = rusqlite::Connection::open(path.trim_end()).unwrap();
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_master WHERE name = 't'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1);
    let file = place.data.join("some.sql");
    std::fs::write(&file, "SELECT 7").unwrap();
    assert_eq!(place.run(&["db", "sql", "d", file.to_str().unwrap()]), "7\n");
    assert!(place.fail(&["db", "sql", "d", "missing.sql"]).contains("cannot read missing.sql"));
}

#[test]
fn keys_are_listed_without_their_secret() {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let key = place.run(&["key", "create", "--database", "d", "--name", "phone"]);
    let key = key.trim_end();
    let list = place.run(&["key", "list"]);
    assert!(list.contains(&key[..12]) && list.contains("phone") && !list.contains(&key[..13]), "{list}");
    let created: serde_json::Value = serde_json::from_str(&place.run(&["key", "create", "--json"])).unwrap();
    assert_eq!(created["id"], 2);
    place.run(&["key", "revoke", created["key"].as_str().unwrap()]);
    let list: serde_json::Value = serde_json::from_str(&place.run(&["key", "list", "--json"])).unwrap();
    assert_eq!((&list[0]["revoked"], &list[0]["database"]), (&serde_json::Value::Null, &"d".into()));
    assert!(list[1]["revoked"].is_string() && list[1]["database"].is_null());
}

#[test]
fn the_configuration_is_shown_with_where_each_setting_is_from_and_serves_as_a_file() {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let file = place.data.join("cloudsync.toml");
    std::fs::write(&file, "idle_ms = 7000\nbody_ms = 8000\nlog = \"debug\"\n").unwrap();
    let mut command = place.command(["config", "show", "--body-ms", "9000"]);
    let output = command.env("CLOUDSYNC_LOG", "warn").output().unwrap();
    let shown = text(&output.stdout);
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("idle_ms").contains("7000") && line("idle_ms").ends_with("cloudsync.toml"), "{shown}");
    assert!(line("body_ms").contains("9000") && line("body_ms").ends_with("# --body-ms"), "{shown}");
    assert!(line("log ").contains("\"warn\"") && line("log ").ends_with("# CLOUDSYNC_LOG"), "{shown}");
    assert!(line("stop_ms").ends_with("# default") && line("# tls_key").ends_with("# not set"), "{shown}");
    std::fs::write(&file, &shown).unwrap();
    let again: serde_json::Value = serde_json::from_str(&place.run(&["config", "show", "--json"])).unwrap();
    let body_ms = again.as_array().unwrap().iter().find(|it| it["name"] == "body_ms").unwrap();
    assert_eq!(body_ms["value"], 9000);

    std::fs::write(&file, "adr = 1").unwrap();
    assert!(place.fail(&["serve"]).contains("there is no setting adr: did you mean addr?"));
    std::fs::remove_file(&file).unwrap();
    let elsewhere = place.data.join("elsewhere.toml");
    std::fs::write(&elsewhere, "data_dir = \".\"\nlog = \"error\"").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloudsync"));
    command.env_remove("CLOUDSYNC_DATA_DIR").args(["db", "list", "--config"]).arg(&elsewhere);
    assert!(text(&command.output().unwrap().stdout).contains("databases/d.db"));
    assert!(place.fail(&["serve", "--config", "none.toml"]).contains("none.toml"));
}

/// The object in the one line of error of a command that must have failed.
fn json_failure(output: &std::process::Output, exit: i32) -> serde_json::Value {
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), told.lines().count()), (Some(exit), 1), "{told}");
    let error: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(error["error"]["code"].as_str().unwrap().starts_with("CLOUDSYNC_"), "{told}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(!message.is_empty() && !message.starts_with("error"), "{told}");
    error["error"].clone()
}

#[test]
fn every_command_and_each_of_its_failures_is_json_where_that_is_asked_for() {
    let place = Place::new();
    let file = |name: &str, text: &str| {
        let path = place.data.with_file_name(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let sql = file("s.sql", "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, o); SELECT 1");
    let secret = file("secret", "a secret of at least 32 bytes, really");
    let copies = ["copy", "control"].map(|name| place.data.with_file_name(name).to_str().unwrap().to_owned());
    let issuer =
        ["issuer", "add", "d", "https://i.example", "--audience", "a", "--secret-file", secret.as_str()];
    // What each must be called with to succeed, in an order in which all do.
    let calls = [
        &["db", "create", "d"][..],
        &["db", "list"],
        &["db", "path", "d"],
        &["db", "sql", "d", &sql],
        &["db", "backup", "d", &copies[0]],
        &["db", "restore", "other", &copies[0]],
        &["db", "pause", "other"],
        &["db", "resume", "other"],
        &["db", "delete", "other", "--yes"],
        &["control", "backup", &copies[1]],
        &["control", "restore", &copies[1]],
        &["key", "create"],
        &["key", "list"],
        &["key", "revoke", "1"],
        &["token", "create", "d", "alice"],
        &["token", "list"],
        &["token", "revoke", "1"],
        &issuer,
        &["issuer", "list"],
        &["issuer", "remove", "1"],
        &["table", "check", "d", "t"],
        &["table", "enable", "d", "t"],
        &["table", "list", "d"],
        &["policy", "set", "d", "t", "--select", "o = auth_userid()"],
        &["policy", "show", "d"],
        &["policy", "test", "d", "t", "--user", "alice"],
        &["policy", "plan", "d", "t", "--select", "1"],
        &["policy", "clear", "d", "t"],
        &["table", "disable", "d", "t"],
        &["config", "show"],
        &["doctor"],
    ];
    for arguments in calls {
        let printed = place.run(&[arguments, &["--json"]].concat());
        for line in printed.lines() {
            let json: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert!(json.is_ok(), "{arguments:?}: {line}");
        }
        assert!(!printed.is_empty(), "{arguments:?}");
    }
    let mut serving = place.command(["serve", "--addr", "127.0.0.1:0", "--json"]);
    let mut serving = serving.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(serving.stdout.take().unwrap()), &mut line)
        .unwrap();
    serving.kill().unwrap();
    serving.wait().unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(told["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{line}");

    let calls: Vec<_> = calls.iter().copied().chain([&["serve"][..]]).collect();
    let below = file("plain", "").clone() + "/data";
    for words in cloudsync_server::cli::commands() {
        let call =
            calls.iter().find(|call| call.iter().zip(&words).filter(|(a, b)| *a == b).count() == words.len());
        let call = call.unwrap_or_else(|| panic!("{words:?} is not tried here"));
        let wrong = place.command(call.iter().chain(&["--json", "--no-such-option"])).output().unwrap();
        assert_eq!(json_failure(&wrong, 2)["code"], "CLOUDSYNC_USAGE", "{words:?}");
        let wrong = place.command(call.iter().chain(&["--json", "--config", "none.toml"])).output().unwrap();
        assert_eq!(json_failure(&wrong, 1)["code"], "CLOUDSYNC_CONFIG", "{words:?}");
        // A folder that cannot be; not all of them need one.
        if words != ["config", "show"] {
            let call = call.iter().chain(&["--json"]);
            let code =
                json_failure(&program::command(std::path::Path::new(&below), call).output().unwrap(), 1);
            let code = code["code"].as_str().unwrap().to_owned();
            let known = ["CLOUDSYNC_FOLDER", "CLOUDSYNC_NO_FOLDER", "CLOUDSYNC_BACKUP", "CLOUDSYNC_CONFIG"];
            assert!(known.contains(&&*code), "{words:?}: {code}");
        }
    }
    let missing = place.command(["db", "path", "none", "--json"]).output().unwrap();
    assert_eq!(json_failure(&missing, 1)["code"], "CLOUDSYNC_UNKNOWN_DATABASE");
}

#[test]
fn the_readme_lists_every_command() {
    let readme = include_str!("../../../README.md");
    for words in cloudsync_server::cli::commands() {
        let command = words.join(" ");
        let ends = ['`', ' '].map(|end| format!("`{command}{end}"));
        assert!(ends.iter().any(|text| readme.contains(text)), "{command}");
    }
}

#[test]
fn no_command_but_those_that_make_secrets_prints_one() {
    let place = Place::new();
    let mut server = place.serve(&["--dev", "d"]);
    let dev_key = (0..3).map(|_| server.next_line()).last().unwrap();
    drop(server);
    let dev_key = dev_key.split('\'').nth(1).unwrap().to_owned();
    let made = [&["key", "create"][..], &["token", "create", "d", "alice"]];
    let mut secrets = vec![dev_key];
    secrets.extend(made.map(|arguments| place.run(arguments).trim_end().to_owned()));
    let file = |name: &str, text: &str| {
        let path = place.data.with_file_name(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let secret = file("secret", "an-issuers-secret-of-32-bytes-or-more");
    place.run(&["issuer", "add", "d", "https://i.example", "--audience", "a", "--secret-file", &secret]);
    let keys = certificate(&file);
    secrets.push("an-issuers-secret-of-32-bytes-or-more".to_owned());
    secrets.push("PRIVATE-PART".to_owned());
    // Where secrets have nothing to be: in a file of settings, in the environment, in a flag.
    secrets.push("csk_planted".to_owned());
    std::fs::write(
        place.data.join("cloudsync.toml"),
        format!("tls_cert = {:?}\ntls_key = {:?}\n# csk_planted_in_a_comment\n", keys[0], keys[1]),
    )
    .unwrap();
    let mut printed = String::new();
    for arguments in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["config", "show", "--tls-key", &keys[1], "--tls-cert", &keys[0]],
        &["key", "list", "--json"],
        &["token", "list", "--json"],
        &["issuer", "list", "--json"],
        &["doctor", "--json"],
        &["db", "list", "--json"],
        &["policy", "show", "d", "--history"],
    ] {
        let mut command = place.command(arguments);
        let environment =
            [("API_KEY", "csk_planted"), ("TLS_KEY", keys[1].as_str()), ("TOKEN", "csk_planted")];
        for (name, value) in environment {
            command.env(format!("CLOUDSYNC_{name}"), value);
        }
        let output = command.output().unwrap();
        printed += &(text(&output.stdout) + &text(&output.stderr));
    }
    for wrong in ["api_key = \"csk_planted\"", "log = csk_planted", "[keys]\nx = \"csk_planted\""] {
        std::fs::write(place.data.join("cloudsync.toml"), wrong).unwrap();
        printed += &place.fail(&["config", "show"]);
        printed += &place.fail(&["serve"]);
    }
    assert!(printed.contains(&keys[1]), "the path of a key is none: {printed}");
    for secret in &secrets {
        // Keys are named by their beginnings.
        let secret = if secret.len() > 40 { &secret[12..] } else { secret };
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

/// Files in the form of a certificate and its key, which nobody reads here.
fn certificate(file: &dyn Fn(&str, &str) -> String) -> [String; 2] {
    [
        file("cert.pem", "-----BEGIN CERTIFICATE-----"),
        file("key.pem", "-----BEGIN PRIVATE KEY-----\nPRIVATE-PART"),
    ]
}
