//! What a person does from a terminal, with the command itself as a process: on real services.

mod doctor;
mod inspect;
mod progress;
mod shell;
mod top;
mod verbs;
mod walk;
mod why;

use std::process::Output;

use serde_json::Value;
use umbel_tests::{house::House, process::Launch};

/// The command of an application with these arguments, as an operator who has the settings of a house.
fn launch(house: &House, args: &[&str]) -> Launch {
    Launch::new("umbel-probe", args).env("REDIS_URL", house.redis.url_as("operator"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints where it ends well.
fn said(house: &House, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = launch(house, args).output();
    assert!(status.success(), "{args:?}: {}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// As JSON.
fn json(house: &House, args: &[&str]) -> Value {
    serde_json::from_str(&said(house, &[args, &["--json"]].concat())).unwrap()
}

/// What it complains of where it does not; ends with this code.
fn refused(house: &House, args: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = launch(house, args).output();
    assert_eq!(status.code(), Some(code), "{args:?}: {}{}", text(&stdout), text(&stderr));
    text(&stderr)
}
