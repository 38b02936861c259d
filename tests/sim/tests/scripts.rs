//! Every scenario of `tests/scripts/` holds: their names are the specification.

use std::fs;
use std::path::Path;

use ringsim::script::play;

/// Fewer would mean that the folder was not found.
const SCRIPTS_MIN: usize = 40;

#[test]
fn every_scenario_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "scenario"))
        .collect();
    names.sort();
    assert!(names.len() >= SCRIPTS_MIN, "only {} scenarios in {}", names.len(), folder.display());
    let mut wrong = Vec::new();
    for path in &names {
        if let Err(why) = play(&fs::read_to_string(path).unwrap()) {
            wrong.push(format!("{}: {why}", path.file_stem().unwrap().to_string_lossy()));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), names.len(), wrong.join("\n"));
}

#[test]
fn a_scenario_that_is_not_true_is_refused() {
    for (script, why) in [
        ("settle", "begins with"),
        ("nodes 1\nsettle\nput leader /k/1 x -> 101", "the answer is ok"),
        ("nodes 3\nsettle\nget leader /k/1 -> x", "the answer is missing"),
        ("nodes 3\nsettle\nisolate leader\nquorum-get leader /k/1 -> missing", "the answer is"),
        ("nodes 3\nsettle\nfly leader", "is no step"),
        ("nodes 3\nsettle\nexpect leader down", "otherwise"),
    ] {
        let error = play(script).expect_err(script);
        assert!(error.contains(why), "{script}: {error}");
    }
}
