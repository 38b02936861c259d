//! The command line as scripts use it: what it prints, and how it exits.

use std::process::{Command, Output};

use ringsim::profile::KINDS;
use serde_json::Value;

fn ringsim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringsim")).args(args).output().expect("it runs")
}

fn json(args: &[&str]) -> Value {
    let output = ringsim(args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn figures_have_every_kind_of_fault_and_a_seeds_hash_is_the_same_twice() {
    let (one, other) = (json(&["--seed", "3", "--json"]), json(&["--seed", "3", "--json"]));
    assert_eq!(one["trace_hash"], other["trace_hash"]);
    assert_eq!(one["trace_hash"].as_str().expect("a text").len(), 16);
    assert_eq!(one["faults"], other["faults"]);
    let faults = one["faults"].as_object().expect("an object");
    assert_eq!(faults.len(), KINDS.len());
    assert!(KINDS.iter().all(|kind| faults[kind.name()].is_u64()), "{faults:?}");
    for key in ["seeds", "simulated_seconds", "operations", "failures"] {
        assert!(one[key].is_u64(), "{key}");
    }
    let many = json(&["--seeds", "2", "--from", "5", "--json"]);
    assert_eq!((&many["seeds"], &many["failures"]), (&2.into(), &0.into()));
    assert_eq!(many["trace_hash"], Value::Null);
}

#[test]
fn a_trace_tells_what_happened() {
    let output = ringsim(&["--seed", "3", "--trace"]);
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(told.contains("everything heals") && told.contains("BecameLeader"), "{told:.2000}");
    let without = ringsim(&["--seed", "3", "--without", "kill,power-cut", "--json"]);
    let without: Value = serde_json::from_slice(&without.stdout).expect("JSON");
    assert_eq!(without["faults"]["kill"], 0);
    assert_eq!(without["faults"]["power-cut"], 0);
}

#[test]
fn exit_codes_tell_wrong_usage_and_scenarios_that_do_not_hold() {
    assert_eq!(ringsim(&["--sed", "3"]).status.code(), Some(64));
    assert_eq!(ringsim(&["--seed", "3", "--without", "rain"]).status.code(), Some(64));
    assert_eq!(ringsim(&["--trace"]).status.code(), Some(64), "of which seed?");
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/");
    let holds = format!("{scripts}watch_sees_delete.scenario");
    assert_eq!(ringsim(&["--script", &holds]).status.code(), Some(0));
    assert_eq!(ringsim(&["--script", env!("CARGO_MANIFEST_PATH")]).status.code(), Some(1), "no scenario");
}
