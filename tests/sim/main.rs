//! The core and the storage of several members in a simulated world: nothing acknowledged is lost, nothing answered
//! twice, no linearizable read is stale, all stores end equal, and when faults end, work goes on.
//!
//! The modules are free of test frameworks: what runs a seed is a plain function. `RINGD_SIM_SEEDS` asks for more seeds,
//! `RINGD_SIM_FROM` for others.

mod checks;
mod dice;
mod host;
mod world;

use world::{MILLI, Profile, Tally, World};

const SECOND: u64 = 1000 * MILLI;
/// After the last fault writes are answered within this time: a stalled sync, a snapshot, a few elections.
const BACK_WITHIN: u64 = 8 * SECOND;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// One whole run: faults, peace, and the checks.
fn run(seed: u64, hosts: u64, changes: u64) -> Result<Tally, String> {
    let mut dice = dice::Dice::new(!seed);
    let profile = Profile { changes, ..Profile::random(&mut dice) };
    let mut world = World::new(seed, hosts, 4, profile);
    world.run(12 * SECOND)?;
    // Faults end: a leader, and writes that are answered, must be back within a bound.
    world.heal();
    let written = world.tally.writes;
    world.run(BACK_WITHIN)?;
    if world.tally.writes == written {
        return Err(format!("no write was answered long after the last fault:\n{}", world.describe()));
    }
    world.rest();
    world.run(10 * SECOND)?;
    checks::linearizable(&world.history)?;
    agree(&mut world)?;
    Ok(world.tally)
}

/// All members have applied the same, and hold the same.
fn agree(world: &mut World) -> Result<(), String> {
    let mut first = None;
    for host in world.members() {
        let id = world.hosts[host].id;
        let Some(life) = &mut world.hosts[host].life else { continue };
        if life.node.members().get(id).is_none() {
            // A newcomer whose addition was never asked for in the end.
            continue;
        }
        let Some((applied, index, mut items)) = life.capture() else {
            return Err(format!("member {id} is still busy with a snapshot"));
        };
        // The store's record holds counters; its index is compared by itself.
        items.retain(|key, _| key.first() != Some(&(ringd_storage::payload::ItemClass::Store as u8)));
        let state = (applied, index, items);
        match &first {
            None => first = Some((id, state)),
            Some((other, known)) if *known != state => {
                let sizes = (known.2.len(), state.2.len());
                return Err(format!(
                    "members {other} and {id} differ: applied {} and {}, index {} and {}, items {sizes:?}",
                    known.0, state.0, known.1, state.1
                ));
            }
            Some(_) => {}
        }
    }
    if first.is_some() { Ok(()) } else { Err("nobody is left".to_owned()) }
}

#[test]
fn one_seed_is_one_run() {
    let once = || {
        let mut world = World::new(77, 3, 4, Profile { faults: 120, loss: 50, ..Profile::CALM });
        world.run(6 * SECOND).unwrap();
        (format!("{:?}", world.history), format!("{:?}", world.tally))
    };
    assert_eq!(once(), once());
}

fn many(count: u64, hosts: u64, changes: u64) -> Tally {
    let from = number("RINGD_SIM_FROM", 1);
    let mut all = Tally::default();
    for seed in from..from + number("RINGD_SIM_SEEDS", count) {
        match run(seed, hosts, changes) {
            Err(problem) => panic!("seed {seed}, {hosts} hosts, changes {changes}: {problem}"),
            Ok(tally) => {
                all.crashes += tally.crashes;
                all.gated += tally.gated;
                all.installs += tally.installs;
                all.elections += tally.elections;
                all.writes += tally.writes;
                all.reads += tally.reads;
                all.changes += tally.changes;
                all.handovers += tally.handovers;
                all.disks += tally.disks;
                all.steps += tally.steps;
            }
        }
    }
    println!("{hosts} hosts: {all:?}");
    all
}

#[test]
fn three_members_keep_every_promise() {
    let all = many(40, 3, 0);
    assert!(all.crashes > 40 && all.installs > 10 && all.gated > 40 && all.writes > 1000, "{all:?}");
}

#[test]
fn five_members_keep_every_promise() {
    let all = many(15, 5, 0);
    assert!(all.crashes > 15 && all.writes > 500, "{all:?}");
}

#[test]
fn members_come_and_go_and_every_promise_is_kept() {
    let all = many(20, 3, 40);
    assert!(all.changes > 20 && all.writes > 500, "{all:?}");
}
